//! Negotiation, option by option.

use super::*;
use crate::base::prng::Prng;
use crate::base::units::ByteLen;

struct Table(Vec<Export>);

impl Exports for Table {
    fn find(&self, name: &str) -> Option<Export> {
        match (name, self.0.as_slice()) {
            ("", [only]) => Some(only.clone()),
            _ => self.0.iter().find(|export| export.name == name).cloned(),
        }
    }

    fn list(&self) -> Vec<Export> {
        self.0.clone()
    }
}

fn export(name: &str) -> Export {
    let geometry = Geometry { size: ByteLen(1 << 30), block: 4096, preferred: 128 << 10, rotational: false };
    Export { name: name.to_owned(), description: "two copies".to_owned(), geometry, read_only: false }
}

/// A client that collects the kinds of the replies it gets.
struct Talk {
    server: Negotiation,
    exports: Table,
}

impl Talk {
    fn new(flags: u32) -> Talk {
        let mut talk =
            Talk { server: Negotiation::default(), exports: Table(vec![export("tank"), export("b")]) };
        let mut out = Vec::new();
        let step = talk.server.advance(&flags.to_be_bytes(), &talk.exports, &mut out).1;
        assert_eq!((step, out.len()), (Step::Receive, 0));
        talk
    }

    fn raw(&mut self, input: &[u8]) -> (Vec<u8>, Step) {
        let mut out = Vec::new();
        let (taken, step) = self.server.advance(input, &self.exports, &mut out);
        assert!(taken == input.len() || step == Step::Close, "a whole option is taken");
        (out, step)
    }

    /// Sends one option; returns the kinds and data of the replies.
    fn option(&mut self, option: u32, data: &[u8]) -> (Vec<(u32, Vec<u8>)>, Step) {
        let (out, step) = self.raw(&bytes(option, data));
        let (mut rest, mut replies) = (out.as_slice(), Vec::new());
        while !rest.is_empty() {
            let header = OptionReplyHeader::parse(rest).unwrap();
            assert_eq!(header.option, option);
            let end = OptionReplyHeader::LEN + usize::try_from(header.len).unwrap();
            replies.push((header.kind, rest[OptionReplyHeader::LEN..end].to_vec()));
            rest = &rest[end..];
        }
        (replies, step)
    }

    fn kinds(&mut self, option: u32, data: &[u8]) -> Vec<u32> {
        self.option(option, data).0.into_iter().map(|(kind, _)| kind).collect()
    }

    fn go(&mut self, name: &str, wanted: &[u16]) -> Agreement {
        match self.option(7, &query(name, wanted)).1 {
            Step::Transmit(agreement) => agreement,
            step => panic!("GO ends in {step:?}"),
        }
    }
}

fn bytes(option: u32, data: &[u8]) -> Vec<u8> {
    let header = OptionHeader { option, len: u32::try_from(data.len()).unwrap() };
    [header.emit().as_slice(), data].concat()
}

fn query(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut out = Vec::new();
    ExportQuery { name, wanted: wanted.to_vec() }.emit(&mut out);
    out
}

fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    let count = u32::try_from(queries.len()).unwrap();
    MetaQuery { name, count, queries: queries.to_vec() }.emit(&mut out);
    out
}

#[test]
fn section_7_go_sends_block_size_before_export_and_one_ack() {
    let mut talk = Talk::new(3);
    let (replies, step) = talk.option(7, &query("tank", &[0, 1, 2, 3, 3, 999]));
    let items: Vec<_> = replies.iter().map(|(kind, data)| (*kind, InfoItem::parse(data).ok())).collect();
    let flags = 0x0d6d; // HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, MULTI_CONN, CACHE, FAST_ZERO
    let wanted = [
        (reply::INFO, Some(InfoItem::BlockSize { minimum: 512, preferred: 128 << 10, maximum: 32 << 20 })),
        (reply::INFO, Some(InfoItem::Name("tank"))),
        (reply::INFO, Some(InfoItem::Description("two copies"))),
        (reply::INFO, Some(InfoItem::Export { size: 1 << 30, flags })),
        (reply::ACK, None),
    ];
    assert_eq!(items, wanted);
    let agreement = Agreement {
        export: "tank".to_owned(),
        mode: ReplyMode::Simple,
        allocation_context: None,
        alignment: 512,
        flags,
    };
    assert_eq!(step, Step::Transmit(agreement));
    assert_eq!(Talk::new(3).go("b", &[]).alignment, 1, "who did not ask promised nothing");
}

#[test]
fn section_5_1_export_name_pads_unless_both_sides_agreed() {
    for (flags, len) in [(0, 134), (1, 134), (2, 10), (3, 10)] {
        let (out, step) = Talk::new(flags).raw(&bytes(1, b"tank"));
        assert_eq!(out.len(), len);
        assert!(matches!(step, Step::Transmit(_)));
    }
    assert_eq!(Talk::new(3).raw(&bytes(1, b"nothing")), (vec![], Step::Close));
    let mut talk = Talk::new(3);
    assert_eq!(talk.kinds(11, b""), [reply::ACK]);
    assert_eq!(talk.raw(&bytes(1, b"tank")), (vec![], Step::Close), "not after extended headers");
}

#[test]
fn section_4_unknown_client_flags_and_wrong_magic_close() {
    for flags in [4u32, 1 << 31] {
        let step = Negotiation::default().advance(&flags.to_be_bytes(), &Table(vec![]), &mut Vec::new()).1;
        assert_eq!(step, Step::Close);
    }
    assert_eq!(Talk::new(3).raw(b"IHAVEOPX\0\0\0\x03\0\0\0\0").1, Step::Close);
}

#[test]
fn section_10_a_selection_belongs_to_its_export_and_the_last_set() {
    let mut talk = Talk::new(3);
    assert_eq!(talk.kinds(10, &meta("tank", &[BASE_ALLOCATION])), [reply::ERR_INVALID]);
    assert_eq!(talk.kinds(8, b""), [reply::ACK]);
    let set = talk.option(10, &meta("tank", &[BASE_ALLOCATION, "x-foo:bar", BASE_ALLOCATION])).0;
    assert_eq!(set.len(), 2, "a context asked for twice is given once");
    assert_eq!(MetaContext::parse(&set[0].1), Ok(MetaContext { id: 1, name: BASE_ALLOCATION }));
    assert_eq!(talk.server.agree("tank", &export("tank"), 1).allocation_context, Some(1));
    assert_eq!(talk.server.agree("b", &export("b"), 1).allocation_context, None, "another export");
    assert_eq!(talk.kinds(10, &meta("tank", &["base:"])), [reply::ACK], "no wildcard in SET");
    assert_eq!(talk.server.agree("tank", &export("tank"), 1).allocation_context, None);
    assert_eq!(talk.kinds(10, &meta("b", &[BASE_ALLOCATION])), [reply::META_CONTEXT, reply::ACK]);
    assert_eq!(talk.kinds(10, &meta("b", &["nonsense"])), [reply::ERR_INVALID]);
    assert_eq!(talk.go("b", &[]).allocation_context, None, "a failed SET forgets the earlier one");
}

#[test]
fn section_5_7_list_meta_knows_wildcards_and_limits() {
    let mut talk = Talk::new(3);
    let both = [reply::META_CONTEXT, reply::ACK];
    assert_eq!(talk.kinds(9, &meta("tank", &[])), both);
    assert_eq!(talk.kinds(9, &meta("tank", &["base:"])), both);
    assert_eq!(talk.kinds(9, &meta("tank", &["qemu:", "x-foo:"])), [reply::ACK]);
    assert_eq!(talk.kinds(9, &meta("none", &[])), [reply::ERR_UNKNOWN]);
    assert_eq!(talk.kinds(9, &meta("tank", &["a:"; 65])), [reply::ERR_TOO_BIG]);
    let mut cut = meta("tank", &["base:"]);
    cut.pop();
    assert_eq!(talk.kinds(9, &cut), [reply::ERR_INVALID]);
}

#[test]
fn limits_drain_refuse_and_close() {
    let mut talk = Talk::new(3);
    let drained = vec![0; usize::try_from(OPTION_DRAIN_MAX).unwrap()];
    assert_eq!(talk.kinds(3, &drained), [reply::ERR_TOO_BIG]);
    assert_eq!(talk.kinds(77, &drained), [reply::ERR_UNSUP]);
    assert_eq!(talk.kinds(3, b""), [reply::SERVER, reply::SERVER, reply::ACK], "still usable");
    let over = OptionHeader { option: 3, len: OPTION_DRAIN_MAX + 1 };
    assert_eq!(talk.raw(&over.emit()), (vec![], Step::Close));

    let mut talk = Talk::new(3);
    for _ in 0..OPTIONS_MAX {
        assert_eq!(talk.kinds(4, b""), [reply::ERR_UNSUP]);
    }
    assert_eq!(talk.option(4, b""), (vec![], Step::Close));
}

#[test]
fn stopping_answers_err_shutdown_but_abort_is_still_acknowledged() {
    let mut talk = Talk::new(3);
    talk.server.stop();
    assert_eq!(talk.option(2, b"bye"), (vec![(reply::ACK, vec![])], Step::Close));
    let mut talk = Talk::new(3);
    talk.server.stop();
    let (replies, step) = talk.option(7, &query("tank", &[]));
    assert_eq!((replies[0].0, step), (reply::ERR_SHUTDOWN, Step::Close));
}

#[test]
fn names_that_are_no_strings_are_refused_and_the_connection_goes_on() {
    let mut talk = Talk::new(3);
    let raw_name = |name: &[u8]| [&u32::try_from(name.len()).unwrap().to_be_bytes(), name, &[0, 0]].concat();
    assert_eq!(talk.kinds(6, &raw_name(b"a\0b")), [reply::ERR_INVALID]);
    assert_eq!(talk.kinds(6, &raw_name(b"\xff\xfe")), [reply::ERR_INVALID]);
    assert_eq!(talk.kinds(6, &raw_name(&[b'n'; 4097])), [reply::ERR_TOO_BIG]);
    assert_eq!(talk.kinds(6, &raw_name(b"none")), [reply::ERR_UNKNOWN]);
    assert_eq!(talk.kinds(6, &[0, 0, 0, 9, 0]), [reply::ERR_INVALID]);
    assert_eq!(talk.kinds(5, b""), [reply::ERR_POLICY]);
    assert_eq!(talk.kinds(6, &raw_name(b"tank")), [reply::INFO, reply::ACK]);
}

#[test]
fn any_bytes_in_any_pieces_give_the_same_answer() {
    let exports = Table(vec![export("tank")]);
    let mut prng = Prng::from_seed(23);
    for _ in 0..3000 {
        let mut input = 3u32.to_be_bytes().to_vec();
        for _ in 0..prng.below(6) {
            let mut data = match prng.below(4) {
                0 => query("tank", &[3]),
                1 => meta("tank", &[BASE_ALLOCATION]),
                2 => vec![],
                _ => vec![0; usize::try_from(prng.below(40)).unwrap()],
            };
            if prng.chance(200) && !data.is_empty() {
                let at = usize::try_from(prng.below(data.len() as u64)).unwrap();
                data[at] = u8::try_from(prng.below(256)).unwrap();
            }
            input.extend(bytes(u32::try_from(prng.below(13)).unwrap(), &data));
        }
        if prng.chance(300) {
            let at = usize::try_from(prng.below(input.len() as u64)).unwrap();
            input[at] ^= 1 << prng.below(8);
        }
        fuzz_negotiation(&input, &exports);
    }
}
