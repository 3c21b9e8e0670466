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

/// A run whose failure is kept in `out/late-1.toml`, with all that it draws.
fn late() -> Folder {
    let folder = Folder::with("late.toml", LATE);
    folder.check(&["late.toml", "--no-shrink"], 1);
    folder
}

const FILE: &str = "out/late-1.toml";

#[test]
fn a_failure_is_repeated_to_an_event_and_event_by_event() {
    let folder = late();
    let whole = folder.check(&["repro", FILE, "--trace"], 1);
    assert_eq!(whole.last_line(), "it fails as it did");
    let traced = folder.check(&["repro", FILE, "--trace", "--json"], 1).lines();
    let (report, events) = traced.split_last().expect("there are lines");
    assert_eq!(report["fails_as_it_did"], true);
    // Each event is told, in order, and what the story says is told with it.
    let numbers: Vec<u64> = events.iter().filter_map(|it| it["event"].as_u64()).collect();
    assert!(numbers.is_sorted() && numbers.first() == Some(&1), "{:?}", numbers.first());
    let different: std::collections::BTreeSet<u64> = numbers.iter().copied().collect();
    assert_eq!(Some(different.len() as u64), report["events"].as_u64());
    let event = |what: &str| {
        let told = |line: &&serde_json::Value| {
            line["what"].as_str().is_some_and(|told| told.starts_with(what))
        };
        let line = events.iter().find(told).unwrap_or_else(|| panic!("{what}"));
        (line["event"].as_u64().expect("a number"), line["node"].clone())
    };
    let (stored, _) = event("client 1, who wanted file 0 to be stored: stored");
    let (rots, at) = event("rot 1: a shard of file 0 at n4");
    assert!(stored < rots && at == "n4", "{stored} {rots} {at}");
    // The state at an event is that of the run which goes on to its end, and of any other that comes by.
    let state = |event: u64, more: &[&str]| {
        let event = event.to_string();
        let args = [&["repro", FILE, "--json", "--goto", &event], more].concat();
        folder.check(&args, 0).lines().pop().expect("a line")
    };
    let before = state(rots - 1, &["--node", "n4"]);
    let behind = state(rots, &["--node", "n4", "--trace"]);
    assert_eq!(behind["event"], rots);
    assert_eq!(before["nodes"].as_array().map(Vec::len), Some(1));
    let shards = |state: &serde_json::Value| {
        let keeps = state["nodes"][0]["keeps"]["shards"].as_array().cloned();
        let keeps = keeps.expect("it keeps shards").into_iter();
        keeps.map(|line| line.as_str().expect("text").to_owned()).collect::<Vec<String>>()
    };
    let bad = |state| shards(state).into_iter().filter(|it| it.contains("NOT what")).collect();
    let (none, bad): (Vec<String>, Vec<String>) = (bad(&before), bad(&behind));
    assert!(none.is_empty() && bad.len() == 1 && bad[0].contains("of file 0"), "{none:?} {bad:?}");
    assert_ne!(before["hash"], behind["hash"]);
    let last = before["last"].as_array().expect("what happened last");
    assert_eq!(last.last().map(|it| it["event"].clone()), Some((rots - 1).into()));
    // While a file is stored messages are on their way, and something is under way.
    let (asked, _) = event("client 1 asks n1 for file 0");
    let busy = state(asked + 40, &[]);
    assert!(busy["in_flight"].as_array().is_some_and(|all| !all.is_empty()));
    let nodes = busy["nodes"].as_array().expect("nodes");
    assert!(nodes.iter().any(|node| node["open"].as_array().is_some_and(|it| !it.is_empty())));
    let told = folder.check(&["repro", FILE, "--goto", &stored.to_string()], 0);
    for words in ["behind event ", ": stored", "the authority", "  members: ", "participant log: "]
    {
        assert!(told.out.contains(words), "{words}: {}", told.out);
    }
    let told = folder.check(&["repro", FILE, "--goto", &rots.to_string()], 0);
    let records = |line: &str| line.contains("file 0: version 1, RS(4,2), keepers n");
    assert!(told.out.lines().any(records), "{}", told.out);
}

#[test]
fn a_failure_is_repeated_on_another_course() {
    let folder = late();
    let fork =
        |args: &[&str], code| folder.check(&[&["repro", FILE, "--fork"], args].concat(), code);
    let rots = ["--without", "rot 0", "--without", "rot 1", "--without", "rot 2"];
    let clean = fork(&rots, 0);
    let part = |line: &str| {
        line.starts_with("  as it went: at ") && line.ends_with(" s rot 1 becomes due")
    };
    assert!(clean.out.lines().any(part), "{}", clean.out);
    assert_eq!(clean.last_line(), "forked:     clean");
    let line = fork(&[&rots[..], &["--json", "--goto", "1900"]].concat(), 0).lines().remove(0);
    assert_eq!((&line["from"], &line["forked"]["verdict"]), (&1900.into(), &"clean".into()));
    assert_eq!(line["as_it_went"]["verdict"], "violation");
    // One more, which was not drawn before: the file of the fork repeats it.
    let more = fork(&["--add", "power-loss 4", "--out", "forked"], 1);
    let file = folder.read("forked/late-1.fork.toml");
    assert!(file.contains("power_losses = 5") && file.contains("\"power-loss 4\""), "{file}");
    let told = folder.repeat(&more.out, 1);
    let of = |what: &str| told.out.lines().filter(|line| line.contains(what)).count();
    assert_eq!((of(" power-loss 4: "), of(" rot ")), (1, 3), "{}", told.out);
    assert_eq!(told.last_line(), "it fails as it did");
}

#[test]
fn where_no_way_leads_is_told() {
    let folder = late();
    let refused = |args: &[&str], words: &[&str]| {
        let ran = folder.check(&[&["repro", FILE], args].concat(), 4);
        assert!(words.iter().all(|words| ran.err.contains(words)), "{args:?}: {}", ran.err);
    };
    refused(&["--goto", "99999"], &["event 99999 never comes", "by no progress", "from 0 to 2"]);
    refused(&["--goto", "9", "--node", "n44"], &["there is no node n44", "n0 to n11"]);
    refused(&["--fork"], &["a fault more, --add, or one less", "--without \"rot 0\""]);
    refused(&["--fork", "--without", "rto 1"], &["called `rto`: did you mean rot?"]);
    refused(&["--fork", "--without", "rot"], &["expected a number behind `rot`"]);
    refused(
        &["--fork", "--without", "rot 5"],
        &["there is no `rot 5`", "`rot 0`, `rot 1`, `rot 2`"],
    );
    refused(&["--fork", "--without", "liar 0"], &["there is no `liar 0`", "nothing of that kind"]);
    refused(&["--fork", "--add", "rot 1"], &["`rot 1` is there already"]);
    refused(&["--fork", "--add", "client 9"], &["`client 9` is not drawn"]);
    refused(&["--fork", "--add", "slow-disk 12"], &["`slow-disk 12` is not drawn"]);
    let early = ["--goto", "2000", "--fork", "--without", "power-loss 0"];
    refused(&early, &["`power-loss 0` is due before event 2000", "fork at an earlier event"]);
    refused(&["--without", "rot 1"], &["--fork"]);
    let never = folder.check(&["repro", FILE, "--goto", "99999"], 4).err;
    let last = never.split("an event from 0 to ").nth(1).expect("how far it goes");
    let last = last.lines().next().expect("a number").trim();
    let over = ["--goto", last, "--fork", "--without", "rot 1"];
    refused(&over, &[&format!("the run is over with event {last}")]);
}

#[test]
fn a_failure_is_a_page_and_a_trace_for_other_tools() {
    let folder = late();
    let ran = folder.check(&["view", FILE, "--out", "late.html"], 0);
    assert_eq!(ran.out, "late: seed 1: violation\nlate.html\n");
    let page = folder.read("late.html");
    let hash = &folder.check(&["repro", FILE, "--json"], 1).lines()[0]["hash"];
    let hash = hash.as_str().expect("a hash");
    assert!(page.contains(hash) && page.contains("\"nodes\":12") && page.len() < 1_000_000);
    for what in ["rot 1: a shard of file 0 at n4", "version 1 of file 0 is current, RS(4,2)"] {
        assert!(page.contains(what), "{what}");
    }
    // Of fewer nodes it says so, and of another seed it is another run.
    let few = ["view", FILE, "--nodes", "4", "--seed", "2", "--out", "few.html"];
    assert!(folder.check(&few, 0).out.starts_with("late: seed 2: "));
    let few = folder.read("few.html");
    assert!(few.len() < page.len() / 2 && !few.contains(hash) && few.contains("\"nodes\":12"));
    let perfetto = folder.check(&["export", FILE, "--format", "perfetto"], 0);
    assert!(perfetto.err.contains("violation: S6"), "{}", perfetto.err);
    let trace: serde_json::Value = serde_json::from_str(&perfetto.out).expect("it is JSON");
    assert_eq!(trace["otherData"]["hash"], hash);
    let events = trace["traceEvents"].as_array().expect("a list");
    let ids = |phase: &str| {
        let all = events.iter().filter(|event| event["ph"] == phase);
        all.filter_map(|event| event["id"].as_u64()).collect::<std::collections::BTreeSet<u64>>()
    };
    let (left, arrived) = (ids("s"), ids("f"));
    assert!(arrived.len() > 500 && arrived.is_subset(&left), "{} {}", left.len(), arrived.len());
    let named = |name: &str| events.iter().filter(|event| event["name"] == name).count();
    assert_eq!((named("its power fails"), named("process_name")), (4, 12));
    let shiviz = folder.check(&["export", FILE, "--format", "shiviz"], 0).out;
    // Whoever is told something knows what the teller knew.
    let heard = shiviz.lines().position(|line| line.ends_with("bytes from n1"));
    let clock = heard.and_then(|at| shiviz.lines().nth(at + 1)).expect("somebody had bytes of n1");
    assert!(clock.contains("\"n1\":"), "{clock}");
}

#[test]
fn what_cannot_be_viewed_or_exported_is_told() {
    let folder = Folder::with("late.toml", LATE);
    folder.write("wrong.toml", LATE.replace("files = 3", "filse = 3"));
    folder.write("old.toml", LATE.replace("format = 1", "format = 1\nderivation = 0"));
    for command in [&["view"][..], &["export", "--format", "perfetto"]] {
        let refused = |file, words: &str| {
            let ran = folder.check(&[command, &[file]].concat(), 4);
            assert!(ran.err.contains(words), "{command:?}: {}", ran.err);
        };
        refused("wrong.toml", "unknown field `filse`");
        refused("old.toml", "version 0 of the randomness");
        refused("absent.toml", "cannot read absent.toml");
    }
    let ran = folder.check(&["view", "late.toml", "--out", "late.toml/late.html"], 5);
    assert!(ran.err.contains("late.toml/late.html"), "{}", ran.err);
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
