//! The contract of `io::driver::Driver`, as cases that every implementation must pass: the simulated driver, over
//! a number of seeds, and io_uring on this machine's kernel, with files on a disk and with files in memory.

mod driver_contract {
    pub mod core_cases;
    pub mod file_cases;
    pub mod rig;
    pub mod socket_cases;
}

use driver_contract::rig::Fixture;
use driver_contract::{core_cases, file_cases, socket_cases};
use drystone::base::units::ByteLen;
use drystone::io::buf::BufPool;
use drystone::io::driver::{Address, Driver, Unpark};
use drystone::io::uring::{Handles, UringConfig, UringDriver};
use drystone::sim::{DiskShape, Place, World};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const SEEDS: u64 = 20;

struct Simulated {
    world: World,
    made: u32,
}

impl Simulated {
    fn name(&mut self, folder: &str) -> PathBuf {
        self.made += 1;
        PathBuf::from(format!("{folder}/{}", self.made))
    }
}

impl Fixture for Simulated {
    fn driver(&mut self, _buffers: &BufPool) -> Box<dyn Driver> {
        self.world.driver()
    }

    fn file(&mut self, size: u64) -> PathBuf {
        let path = self.name("/files");
        self.world.add_disk(&path, DiskShape::file(ByteLen(size)));
        path
    }

    fn free_path(&mut self) -> PathBuf {
        self.name("/files")
    }

    fn local_address(&mut self) -> Address {
        Address::Unix(self.name("/sockets"))
    }

    fn unpark_after(&mut self, unpark: Arc<dyn Unpark>, delay: Duration) {
        self.world.after(delay, move |_| unpark.unpark());
    }
}

/// This machine's kernel, and a folder.
struct Kernel {
    handles: Arc<Handles>,
    in_memory: bool,
    folder: TempDir,
    made: u32,
}

impl Kernel {
    fn new(folder: &str, in_memory: bool) -> Kernel {
        let folder = TempDir::new_in(folder).unwrap();
        Kernel { handles: Handles::new(), in_memory, folder, made: 0 }
    }
}

impl Fixture for Kernel {
    fn driver(&mut self, buffers: &BufPool) -> Box<dyn Driver> {
        Box::new(UringDriver::new(UringConfig::default(), buffers, self.handles.clone()).unwrap())
    }

    fn file(&mut self, size: u64) -> PathBuf {
        let path = self.free_path();
        std::fs::File::create_new(&path).unwrap().set_len(size).unwrap();
        path
    }

    fn free_path(&mut self) -> PathBuf {
        self.made += 1;
        self.folder.path().join(self.made.to_string())
    }

    fn local_address(&mut self) -> Address {
        Address::Unix(self.free_path())
    }

    fn unpark_after(&mut self, unpark: Arc<dyn Unpark>, delay: Duration) {
        // Not joined: the case ends after it has been unparked.
        std::thread::spawn(move || {
            std::thread::sleep(delay);
            unpark.unpark();
        });
    }

    fn knows_no_sectors(&self) -> bool {
        self.in_memory
    }

    fn has_lasting_memory(&self) -> bool {
        self.in_memory
    }
}

macro_rules! cases {
    ($($module:ident: $($case:ident),*;)*) => {
        mod simulated {
            use super::*;
            $($(
                #[test]
                fn $case() {
                    for seed in 0..SEEDS {
                        let world = World::new(seed);
                        world.add_process(Place::Head);
                        $module::$case(&mut Simulated { world, made: 0 });
                    }
                }
            )*)*
        }

        mod kernel {
            use super::*;
            $($(
                #[test]
                fn $case() {
                    $module::$case(&mut Kernel::new(env!("CARGO_TARGET_TMPDIR"), false));
                }
            )*)*
        }

        mod memory {
            use super::*;
            $($(
                #[test]
                fn $case() {
                    $module::$case(&mut Kernel::new("/dev/shm", true));
                }
            )*)*
        }
    };
}

cases! {
    file_cases:
        what_was_written_reads_back,
        a_read_ends_short_at_the_end_of_the_file_only,
        a_write_past_the_end_makes_a_file_longer,
        durable_writes_and_flushes_end_well,
        many_operations_end_once_each,
        r28_an_exclusive_open_is_refused_until_the_holder_closes,
        exclusive_create_makes_the_file_once,
        opening_nothing_gives_enoent,
        zeroes_read_as_zeros_and_discards_spare_the_neighbours,
        a_closed_file_gives_ebadf,
        a_file_opened_for_inspection_is_not_written,
        unaligned_access_gives_einval,
        nothing_to_move_ends_well,
        a_file_works_on_every_core;
    socket_cases:
        bytes_go_there_and_back_over_tcp,
        bytes_go_there_and_back_locally,
        connecting_to_nobody_is_refused,
        an_address_is_listened_on_once,
        the_first_window_is_filled_before_the_second,
        a_large_scattered_send_arrives_in_order,
        shutdown_ends_a_waiting_receive,
        shutdown_ends_a_waiting_accept,
        closing_ends_what_waits,
        the_end_of_the_stream_follows_its_bytes,
        a_receive_of_many_bytes_gets_what_comes_before_the_end,
        a_receive_of_many_bytes_does_not_outwait_the_connection,
        a_receive_of_many_bytes_ends_at_a_shutdown,
        a_receive_of_few_bytes_follows_one_of_many,
        sending_after_the_end_gives_epipe,
        a_receive_without_room_gives_einval,
        a_closed_socket_gives_ebadf,
        sockets_work_on_every_core;
    core_cases:
        park_ends_at_its_limit,
        park_ends_at_an_unpark,
        an_unpark_before_the_park_is_not_lost,
        clocks_go_forward,
        memory_that_lasts_is_one_handle_s_alone_and_keeps_its_words,
        r19_dropped_futures_give_their_buffers_back;
}
