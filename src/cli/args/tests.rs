//! The grammar, word by word.

use super::*;
use clap::CommandFactory;
use clap::error::ErrorKind;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("drystone").chain(line.split_whitespace()))
}

#[test]
fn the_grammar_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn globals_are_taken_before_and_after_the_command() {
    for line in ["--state /s --control /c --json status", "status --state /s --control /c --json"] {
        let globals = parse(line).unwrap().globals;
        assert_eq!((globals.state, globals.control, globals.json), ("/s".into(), "/c".into(), true));
    }
}

#[test]
fn what_a_pool_promises_is_left_open_unless_said() {
    let Command::Pool(PoolCommand::Create(args)) = parse("pool create tank sda sdb").unwrap().command else {
        panic!("another command")
    };
    assert_eq!((args.protect, args.copies, args.disks.len()), (None, None, 2));
    let line = "pool create t a b --copies 3 --extent 64MiB --erase a --erase b --protect none --yes";
    let Command::Pool(PoolCommand::Create(args)) = parse(line).unwrap().command else {
        panic!("another command")
    };
    assert_eq!(
        (args.protect, args.copies, args.extent),
        (Some(Protect::None), Some(3), Some(ByteLen(64 << 20)))
    );
    assert_eq!((args.erase, args.yes), (vec!["a".to_owned(), "b".to_owned()], true));
}

#[test]
fn no_flag_erases_a_disk_that_is_not_named() {
    assert!(parse("pool create tank sda --erase").is_err());
    for flag in ["--force", "-f", "--erase-all"] {
        assert!(parse(&format!("pool create tank sda {flag}")).is_err(), "{flag}");
    }
}

#[test]
fn near_misses_are_named() {
    let error = parse("volume creat data --size 1GB").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSubcommand);
    assert!(error.to_string().contains("create"), "{error}");
    assert!(parse("status --jsn").unwrap_err().to_string().contains("--json"));
    assert!(parse("volume create data --size 80apples").unwrap_err().to_string().contains("80GB"));
}

#[test]
fn listening_addresses() {
    let tcp = |text: &str| Ok(Address::Tcp(text.parse().unwrap()));
    assert_eq!(parse_listen("0.0.0.0"), tcp("0.0.0.0:10809"));
    assert_eq!(parse_listen("localhost:7"), tcp("127.0.0.1:7"));
    assert_eq!(parse_listen("[::1]:7"), tcp("[::1]:7"));
    assert_eq!(parse_listen("::"), tcp("[::]:10809"));
    assert_eq!(parse_listen("unix:/run/x"), Ok(Address::Unix("/run/x".into())));
    for bad in ["", "unix:", "host.example", "1.2.3.4:99999", ":10809"] {
        assert!(parse_listen(bad).is_err(), "{bad}");
    }
    let Command::Serve(args) = parse("serve").unwrap().command else { panic!("another command") };
    assert_eq!(
        args.nbd,
        [Address::Tcp("127.0.0.1:10809".parse().unwrap())],
        "loopback unless told otherwise"
    );
    assert_eq!((args.memory.0, args.cores), (MEMORY_DEFAULT, None));
}

#[test]
fn core_lists() {
    assert_eq!(parse_cores("0,2-3,2"), Ok(CoreList(vec![0, 2, 3])));
    for bad in ["", ",", "3-2", "a", "1-", "99999"] {
        assert!(parse_cores(bad).is_err(), "{bad}");
    }
}

#[test]
fn numbers_are_bounded() {
    for bad in ["0", "4", "-1", "two"] {
        assert!(parse(&format!("volume create d --size 1GB --copies={bad}")).is_err(), "{bad}");
    }
    assert!(parse("serve --memory 1MiB").is_err());
    assert!(parse("bench --seconds 0").is_err());
}

#[test]
fn names_are_plain() {
    for good in ["data", "A-1_b.c"] {
        assert!(parse_name(good).is_ok(), "{good}");
    }
    for bad in ["", "a b", "a/b", "-x", ".x", "ü", "a\n", &"x".repeat(65)] {
        assert!(parse_name(bad).is_err(), "{bad:?}");
    }
}
