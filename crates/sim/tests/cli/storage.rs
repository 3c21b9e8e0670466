//! Worlds of storage nodes that fail: kept, shrunk, told and repeated.

use super::Folder;

/// Shards rot so shortly before all has to be mended that they cannot be.
const LATE: &str = r#"
format = 1
name = "late"

[network]
loss = "1%"

[storage]
nodes = 12
files = 3
sagas = 1
lasts = "30s"
budget = "6s"

[faults]
power_losses = 4
partitions = 1
rot = 3
window = "29s..30s"
"#;

#[test]
fn a_failure_is_shrunk_when_it_is_found() {
    let folder = Folder::with("late.toml", LATE);
    let ran = folder.check(&["late.toml"], 1);
    assert!(ran.out.contains(": 8 faults to 1, 4 clients to 1, 12 nodes to "), "{}", ran.out);
    assert!(ran.out.ends_with("\ncargo xtask sim repro out/late-1.shrunk.toml\n"), "{}", ran.out);
    let small = folder.read("out/late-1.shrunk.toml");
    assert!(small.contains("only = [\"rot ") && !small.contains("loss = \"1%\""), "{small}");
    // Both files are there, and both fail, and it is told what struck whom.
    assert_eq!(folder.check(&["repro", "out/late-1.toml"], 1).last_line(), "it fails as it did");
    let told = folder.repeat(&ran.out, 1);
    assert_eq!(told.last_line(), "it fails as it did");
    let of = |what: &str| told.out.lines().filter(|line| line.contains(what)).count();
    assert_eq!((of(" rot "), of(" power-loss "), of(": stored")), (1, 0, 1), "{}", told.out);
    // It is as small as it gets.
    let again = folder.check(&["shrink", "out/late-1.shrunk.toml", "--json", "--out", "again"], 1);
    let line = &again.lines()[0];
    assert_eq!(line["before"], line["after"], "{line}");
    assert_eq!((&line["finished"], &line["signature"]), (&true.into(), &"S6".into()));
    let json = folder.check(&["repro", "out/late-1.shrunk.toml", "--json"], 1);
    assert_eq!(json.lines()[0]["fails_as_it_did"], true);
    assert!(json.lines()[0]["story"].as_array().is_some_and(|story| story.len() > 2));
}

#[test]
fn what_is_left_out_takes_nothing_from_the_others() {
    let calm = LATE.replace("\"6s\"", "\"600s\"");
    let folder = Folder::with("late.toml", &calm);
    folder.check(&["late.toml"], 0);
    let repeats = "[repeats]\nderivation = 1\ninvariant = \"S1\"\nevent = 1\n";
    folder.write("all.toml", format!("{calm}{repeats}"));
    let fewer =
        "name = \"late\"\nonly = [\"power-loss 0\", \"power-loss 3\", \"client 1\", \"client 3\"]";
    folder.write("few.toml", format!("{}{repeats}", calm.replace("name = \"late\"", fewer)));
    // The fault of a number is due at the same moment, and strikes the same node.
    let struck = |name: &str, fault: &str| {
        let ran = folder.check(&["repro", name], 0);
        assert_eq!(ran.last_line(), "it runs clean: S1 does not come up any more");
        let line = ran.out.lines().find(|line| line.contains(fault)).map(str::to_owned);
        line.and_then(|line| Some(line.split_once(fault)?.1.to_owned()))
    };
    for fault in ["power-loss 0: ", "power-loss 3: "] {
        assert!(struck("all.toml", fault).is_some());
        assert_eq!(struck("all.toml", fault), struck("few.toml", fault));
    }
    assert_eq!(struck("few.toml", "power-loss 1: "), None);
    assert_eq!(struck("few.toml", "client 2 "), None);
}

#[test]
fn what_cannot_be_repeated_or_shrunk_is_told() {
    let folder = Folder::with("late.toml", LATE);
    let refused = |args: &[&str], words: &str| {
        let ran = folder.check(args, 4);
        assert!(ran.err.contains(words), "{}", ran.err);
    };
    refused(&["repro", "late.toml"], "repeats no failure: it has no [repeats] table");
    let only = |names: &str| LATE.replace("\n[network]", &format!("only = [{names}]\n[network]"));
    folder.write("misspelt.toml", only("\"powerloss 1\""));
    refused(&["misspelt.toml"], "did you mean power-loss?");
    folder.write("absent.toml", only("\"rot 3\", \"client 1\""));
    refused(&["absent.toml"], "only: `rot 3` is not drawn");
    folder.write("nobody.toml", only("\"rot 2\""));
    refused(&["nobody.toml"], "only: names no client");
    folder.check(&["late.toml", "--no-shrink"], 1);
    refused(&["repro", "out/late-1.toml", "--trace"], "are for worlds of coordinators");
    let failure = folder.read("out/late-1.toml");
    folder.write("other.toml", failure.replace("\"S6\"", "\"S1\""));
    refused(&["shrink", "other.toml"], "fails otherwise than it says: by S6, not by S1");
    let ran = folder.check(&["repro", "other.toml"], 4);
    assert_eq!(ran.last_line(), "another failure than in the file, which has S1");
    folder.write("old.toml", failure.replace("derivation = 1", "derivation = 0"));
    refused(&["repro", "old.toml"], "version 0 of the randomness");
    // What has not happened does not happen in a smaller run either.
    let more = LATE.replace("\"6s\"", "\"600s\"") + "\n[expect]\nstored = 9\n";
    folder.write("more.toml", more);
    let ran = folder.check(&["more.toml"], 1);
    assert!(ran.out.contains("not shrunk: `expected stored = 9, found 3`"), "{}", ran.out);
    folder.write("good.toml", LATE.replace("\"6s\"", "\"600s\""));
    let ran = folder.check(&["shrink", "good.toml"], 0);
    assert_eq!(ran.last_line(), "it runs clean: there is nothing to shrink");
}

#[test]
fn the_corpus_holds_them_too() {
    let lesson = format!("# Repairs begin too late.\nderivation = 1{LATE}");
    let folder = Folder::with("scenarios/regressions/late.toml", &lesson);
    let ran = folder.check(&["corpus", "scenarios/regressions"], 1);
    assert!(
        ran.out.starts_with("violation   late\n            Repairs begin too late.\n"),
        "{}",
        ran.out
    );
    assert_eq!(ran.last_line(), "cargo xtask sim repro out/late-1.shrunk.toml");
    let lines = folder.check(&["corpus", "scenarios/regressions", "--json"], 1).lines();
    assert_eq!(
        (&lines[0]["why"], &lines[0]["verdict"]),
        (&"Repairs begin too late.".into(), &"violation".into())
    );
    let other = lesson.replace("derivation = 1", "derivation = 0");
    folder.write("scenarios/regressions/late.toml", other);
    let ran = folder.check(&["corpus", "scenarios/regressions"], 4);
    assert!(ran.err.contains("version 0 of the randomness"), "{}", ran.err);
}

#[test]
fn seeds_that_run_at_once_are_told_in_their_order() {
    let folder = Folder::new();
    let ran = |jobs| folder.check(&["storage", "--seeds", "0..5", "--json", "--jobs", jobs], 0).out;
    let one = ran("1");
    assert_eq!(one.lines().count(), 5);
    assert_eq!(one, ran("3"));
    let told = folder.check(&["storage", "--seeds", "0..5", "--jobs", "3"], 0);
    assert!(told.out.starts_with("small storage worlds: 5 of 5 clean; "), "{}", told.out);
}
