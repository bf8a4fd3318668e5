//! The opening of a controller, command by command.

use super::super::draft::{self, Page, Property};
use super::super::opening::{
    Answer, Ask, AskData, Opening, Purpose, Step, Wish, connect_queue, has_ended, queue_connected,
};
use super::super::{Controller, Failure, Refusal};
use crate::nvmf::command::{DataPlace, Sqe, Status};
use uuid::Uuid;

/// CAP: 128 entries, the NVM command set.
const CAPABILITIES: u64 = 127 | 1 << 37;

fn wish() -> Wish {
    Wish {
        subsystem: "nqn.2014-08.org.nvmexpress:uuid:pool".to_owned(),
        host: "nqn.2014-08.org.nvmexpress:uuid:host".to_owned(),
        host_id: Uuid::from_u128(5),
        keep_alive_ms: 5000,
        purpose: Purpose::Io { queues: 4 },
    }
}

fn number(result: u64) -> Result<Answer, Failure> {
    Ok(Answer { result, data: Vec::new() })
}

/// Identify Controller of controller 9.
fn page() -> Result<Answer, Failure> {
    let mut data = vec![0; 4096];
    for (at, byte) in [(77, 5), (78, 9), (320, 10), (536, 1), (1792, 4), (1796, 1)] {
        data[at] = byte;
    }
    Ok(Answer { result: 0, data })
}

fn failure(status: Status) -> Result<Answer, Failure> {
    Err(Failure { status, no_retry: true, result: 0 })
}

/// What the opening says after these answers.
fn after(answers: &[Result<Answer, Failure>]) -> Result<Step, Refusal> {
    let (mut opening, _) = Opening::new(wish());
    let mut last = None;
    for answer in answers {
        last = Some(opening.answer(answer.clone())?);
    }
    Ok(last.expect("at least one answer"))
}

fn plain(draft: draft::Draft) -> Step {
    Step::Ask(Ask { draft, data: AskData::None })
}

fn good() -> Vec<Result<Answer, Failure>> {
    // Connect, CAP, CC, CSTS not ready and ready, VS, Identify, queues.
    let mut all = vec![number(9), number(CAPABILITIES), number(0), number(0), number(1), number(0x10400)];
    all.extend([page(), number(0x0001_0001)]);
    all
}

#[test]
fn section_10_a_controller_is_opened_step_by_step() {
    let good = good();
    let (_, first) = Opening::new(wish());
    let AskData::Send(data) = &first.data else { panic!("Connect has data") };
    let entry = Sqe::new(first.draft.seal(0, DataPlace::InCapsule { offset: 0, len: 1024 }));
    assert_eq!((entry.u16(42), entry.u16(44), entry.u32(48), data.len()), (0, 31, 5000, 1024));
    assert_eq!(data[16..18], [0xff, 0xff]);
    let steps: Vec<Step> = (1..=good.len()).map(|count| after(&good[..count]).unwrap()).collect();
    let status = Ask { draft: draft::property_of(Property::Status), data: AskData::None };
    assert_eq!(steps[0], plain(draft::property_of(Property::Capabilities)));
    assert_eq!(steps[1], plain(draft::set_property(Property::Configuration, 0x0046_0001)));
    assert_eq!(steps[2], Step::Ask(status.clone()));
    assert_eq!(steps[3], Step::AskLater(status));
    assert_eq!(steps[4], plain(draft::property_of(Property::Version)));
    let identify = draft::identify(Page::Controller, 0);
    assert_eq!(steps[5], Step::Ask(Ask { draft: identify, data: AskData::Receive(4096) }));
    assert_eq!(steps[6], plain(draft::number_of_queues(4)));
    let Step::Open(Controller { id, queues, depth_max, transfer_max, version, .. }) = steps[7] else {
        panic!("{:?}", steps[7])
    };
    assert_eq!((id, queues, depth_max, transfer_max, version), (9, 2, 127, 128 << 10, 0x10400));
}

#[test]
fn every_command_that_fails_ends_the_opening_with_its_name() {
    let good = good();
    for count in 0..good.len() {
        let mut answers = good[..count].to_vec();
        answers.push(failure(Status::INTERNAL));
        let refused = after(&answers).unwrap_err();
        assert!(matches!(refused, Refusal::Command { .. }), "{count}: {refused}");
    }
    let refused = after(&[failure(Status::CONNECT_PARAMETERS)]).unwrap_err().to_string();
    assert_eq!(
        refused,
        "the server refused the connection: no such subsystem, or wrong parameters (status 0x182)"
    );
}

#[test]
fn answers_that_cannot_be_worked_with_end_the_opening() {
    assert_eq!(after(&[number(9 | 1 << 17)]), Err(Refusal::Authentication));
    assert_eq!(after(&[number(9 | 1 << 18)]), Err(Refusal::Authentication));
    assert!(matches!(after(&[number(9), number(127)]), Err(Refusal::Broken(_))), "no NVM command set");
    assert!(matches!(after(&[number(9), number(1 << 37)]), Err(Refusal::Broken(_))), "one entry");
    assert_eq!(after(&[number(9), number(CAPABILITIES), number(0), number(2)]), Err(Refusal::Fatal));
    assert_eq!(after(&[number(9), number(CAPABILITIES), number(0), number(3)]), Err(Refusal::Fatal));
    let mut other = good();
    other[0] = number(8);
    assert!(matches!(after(&other[..7]), Err(Refusal::Broken(_))), "Identify names another controller");
}

#[test]
fn larger_pages_are_taken_and_count_for_transfers() {
    let mut answers = good();
    answers[1] = number(CAPABILITIES | 2 << 48);
    let enable = draft::set_property(Property::Configuration, 0x0046_0101);
    assert_eq!(after(&answers[..2]), Ok(plain(enable)));
    let Ok(Step::Open(controller)) = after(&answers) else { panic!("opens") };
    assert_eq!(controller.transfer_max, 512 << 10);
}

#[test]
fn no_more_queues_are_used_than_were_granted_or_asked_for() {
    for (answer, queues) in [(0, 1), (0x0007_0002, 3), (0xffff_ffff, 4), (0x0000_0007, 1)] {
        let mut answers = good();
        answers[7] = number(answer);
        let Ok(Step::Open(controller)) = after(&answers) else { panic!("opens") };
        assert_eq!(controller.queues, queues, "{answer:x}");
    }
}

#[test]
fn a_controller_for_discovery_has_no_queues() {
    let (mut opening, _) = Opening::new(Wish { purpose: Purpose::Discovery, keep_alive_ms: 0, ..wish() });
    let steps: Vec<Step> = good()[..7].iter().map(|a| opening.answer(a.clone()).unwrap()).collect();
    assert!(matches!(&steps[6], Step::Open(Controller { queues: 0, capsule_max: 0, .. })));
}

#[test]
fn a_queue_belongs_to_its_controller() {
    let asked = connect_queue(&wish(), 9, 2, 64);
    let entry = Sqe::new(asked.draft.seal(0, DataPlace::InCapsule { offset: 0, len: 1024 }));
    assert_eq!((entry.u16(42), entry.u16(44), entry.u32(48)), (2, 64, 0));
    assert!(matches!(&asked.data, AskData::Send(data) if data[16..18] == [9, 0]));
    assert_eq!(queue_connected(number(9), 9), Ok(()));
    assert!(matches!(queue_connected(number(8), 9), Err(Refusal::Broken(_))));
    assert!(matches!(queue_connected(failure(Status::CONNECT_BUSY), 9), Err(Refusal::Command { .. })));
    assert_eq!(queue_connected(number(9 | 1 << 17), 9), Err(Refusal::Authentication));
}

#[test]
fn a_controller_has_ended_when_its_status_says_so() {
    assert!(has_ended(1 | 2 << 2) && !has_ended(1) && !has_ended(1 | 1 << 2) && !has_ended(1 | 3 << 2));
}
