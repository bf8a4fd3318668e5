//! Every cap of the program in one place, with the relations between them checked at compile time.

/// The block that checksums, written marks and ordering work in, bytes.
pub const BLOCK: u64 = 4096;

/// The largest buffer handed out in one piece, bytes. Larger payloads are chains of these.
pub const CHUNK_MAX: u64 = 1 << 20;

/// The largest READ or WRITE payload accepted from a client, bytes (NBD section 8 advertises it).
pub const PAYLOAD_MAX: u64 = 32 << 20;

/// A WRITE payload above `PAYLOAD_MAX` and up to this is drained and refused; above it the connection ends.
pub const PAYLOAD_DRAIN_MAX: u64 = 64 << 20;

/// Requests in flight on one connection; beyond it the socket is not read.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 256;

/// Connections served at the same time, all listeners together.
pub const CONNECTIONS_MAX: usize = 1024;

/// Servers that a benchmark measures beside the volume.
pub const BENCH_OTHERS_MAX: usize = 4;

/// Connections that may be in negotiation at the same time.
pub const HANDSHAKES_MAX: usize = 128;

/// Time a client has for its whole negotiation, nanoseconds.
pub const HANDSHAKE_DEADLINE_NS: u64 = 15_000_000_000;

/// Options in one negotiation.
pub const OPTIONS_MAX: u32 = 64;

/// Bytes of option data that are looked at; up to `OPTION_DRAIN_MAX` they are drained and refused.
pub const OPTION_DATA_MAX: u32 = 64 << 10;
pub const OPTION_DRAIN_MAX: u32 = 1 << 20;

/// Bytes in any NBD string (NBD section "Values").
pub const NBD_STRING_MAX: usize = 4096;

/// Meta context queries in one option.
pub const META_QUERIES_MAX: u32 = 64;

/// Extents in one BLOCK_STATUS chunk.
pub const STATUS_EXTENTS_MAX: usize = 64 << 10;

/// Bytes of a pool or volume name (UTF-8).
pub const NAME_MAX: usize = 64;

/// Members of one pool.
pub const MEMBERS_MAX: usize = 64;

/// Volumes of one pool.
pub const VOLUMES_MAX: usize = 4096;

/// The sectors that a volume can have for hosts that count in them, bytes.
pub const LBA_BYTES: [u32; 2] = [512, 4096];
pub const LBA_BYTES_DEFAULT: u32 = LBA_BYTES[0];

/// Bytes that a volume keeps of its reservations.
pub const RESERVATIONS_LEN_MAX: usize = 4096;

/// Openings that a pool remembers, to tell its own history from one that left it.
pub const LINEAGE_MAX: usize = 1024;

/// Copies of a volume.
pub const COPIES_MAX: usize = 3;

/// Columns of a stripe.
pub const COLUMNS_MAX: u32 = 16;

/// Volume size, bytes: signed 64-bit offsets must reach every byte (NBD trap T25).
pub const VOLUME_SIZE_MAX: u64 = (1 << 63) - BLOCK;

/// Extent sizes, bytes; powers of two between these.
pub const EXTENT_MIN: u64 = 1 << 20;
pub const EXTENT_MAX: u64 = 256 << 20;

/// Extents that the smallest member of a new pool gets at least.
pub const EXTENTS_PER_MEMBER_MIN: u64 = 64;

/// The largest region, bytes: what one dirty bit and one region block stand for.
pub const REGION_MAX: u64 = 2 << 20;

/// Stripe units, bytes; powers of two between these.
pub const STRIPE_UNIT_MIN: u64 = 4 << 10;
pub const STRIPE_UNIT_MAX: u64 = 1 << 20;
pub const STRIPE_UNIT_DEFAULT: u64 = 128 << 10;

/// Regions whose dirty mark may be set at the same time in one pool: bounds the work after a crash.
pub const DIRTY_REGIONS_MAX: usize = 4096;

/// The smallest memory budget of a daemon, bytes: one maximal payload, its reply, and the region cache.
pub const MEMORY_MIN: u64 = 128 << 20;
pub const MEMORY_DEFAULT: u64 = 512 << 20;

/// One line of the control protocol, bytes.
pub const CONTROL_LINE_MAX: usize = 1 << 20;

/// Control connections at the same time.
pub const CONTROL_CONNECTIONS_MAX: usize = 64;

const _: () = assert!(PAYLOAD_MAX <= PAYLOAD_DRAIN_MAX);
const _: () = assert!(PAYLOAD_MAX.is_multiple_of(CHUNK_MAX) && CHUNK_MAX.is_multiple_of(BLOCK));
const _: () = assert!(2 * PAYLOAD_MAX <= MEMORY_MIN);
const _: () = assert!(EXTENT_MIN.is_power_of_two() && EXTENT_MAX.is_power_of_two());
const _: () = assert!(REGION_MAX.is_power_of_two() && REGION_MAX <= 2 * EXTENT_MIN);
const _: () = assert!(STRIPE_UNIT_MIN >= BLOCK && STRIPE_UNIT_MAX <= EXTENT_MIN);
const _: () = assert!(HANDSHAKES_MAX < CONNECTIONS_MAX);
