//! Saga files from outside: what is accepted, what is refused and where, and what is made of it.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

#[rustfmt::skip]
mod generated;
#[expect(dead_code, reason = "of this one only the definitions are asked for")]
#[rustfmt::skip]
mod trip;

use base::{CoordinatorId, NodeName, OperationId, Sequence, Token};
use generated::{OrderActions, OrderAnswer, OrderStep, call_order, order_definition};
use saga::{Direction, Effect, End, Input, Outcome, Saga, StepKind, ValueType};
use saga_toml::SagaFile;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ORDER: &str = include_str!("order.toml");

fn order() -> SagaFile {
    SagaFile::parse("order.toml", ORDER).unwrap()
}

fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(name)
}

/// What comes out is what stands in a file beside this one. `SAGA_TOML=rewrite cargo test -p saga-toml`
/// writes it down: review the difference.
fn same(name: &str, made: &str) {
    if std::env::var_os("SAGA_TOML").is_some_and(|value| value == "rewrite") {
        fs::write(beside(name), made).unwrap();
    }
    assert_eq!(made, fs::read_to_string(beside(name)).unwrap(), "{name}");
}

#[test]
fn a_file_says_what_the_builder_would() {
    let order = order();
    assert_eq!((order.name.as_str(), order.version), ("order", 3));
    assert_eq!(order.timeout, Some(Duration::from_secs(300)));
    let names: Vec<&str> = order.steps.iter().map(|step| step.name.as_str()).collect();
    // Each behind what it depends on, otherwise as in the file.
    assert_eq!(names, ["reserve", "check-address", "charge", "ship", "thank"]);
    let charge = &order.steps[2];
    assert_eq!((charge.kind, &charge.after[..]), (StepKind::Pivot, &[0, 1][..]));
    assert_eq!(charge.takes, [(0, ValueType::U64), (1, ValueType::Bool)]);
    let definition = order.definition(|_| (NodeName::numbered(1), [].into()));
    assert_eq!(definition.name().unwrap().version, 3);
    let reserve = &definition.steps()[0];
    assert_eq!(reserve.undo_name.as_ref().unwrap().as_str(), "stock.release");
    assert_eq!(definition.steps()[1].timeout, Some(Duration::from_millis(1_500)));
    // The step's own name is its action's, where it names none.
    assert_eq!(definition.steps()[4].action_name.as_ref().unwrap().as_str(), "thank");
}

/// A file's header and these lines, and where the first mistake is, with what it says.
fn wrong(lines: &str) -> (u64, u64, String) {
    let text = format!("format = 1\nname = \"x\"\nversion = 1\n{lines}");
    let mistakes = SagaFile::parse("x.toml", &text).expect_err("it is wrong");
    let (line, column) = mistakes.mistakes[0].line_and_column();
    (line, column, mistakes.mistakes[0].message.clone())
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let step = |name: &str, rest: &str| format!("[[step]]\nname = \"{name}\"\n{rest}\n");
    let undone = |name: &str, rest: &str| step(name, &format!("undo = \"u\"\n{rest}"));
    for (lines, place, words) in [
        (String::new(), (2, 8), "at least one step"),
        (step("a", ""), (5, 8), "no compensation"),
        (step("a", "kind = \"compensatable\""), (6, 8), "no compensation"),
        (step("a", "kind = \"pivoted\""), (6, 8), "unknown kind of step \"pivoted\""),
        (undone("a", "kind = \"pivot\""), (6, 8), "never undone"),
        (undone("A", ""), (5, 8), "\"A\" is no name"),
        (undone("a", "") + &undone("a", ""), (9, 8), "taken"),
        (undone("a-1", "") + &undone("a1", ""), (9, 8), "taken, by \"a-1\""),
        (undone("a", "after = [\"b\"]"), (7, 10), "unknown step \"b\""),
        (undone("a", "after = [\"a\"]"), (7, 10), "a after a"),
        (
            undone("a", "after = [\"c\"]")
                + &undone("b", "after = [\"a\"]")
                + &undone("c", "after = [\"b\"]"),
            (7, 10),
            "a after c after b after a",
        ),
        (undone("a", "after = []\ntimeout = \"5\""), (8, 11), "no length of time"),
        (undone("a", "timeout = \"99999h\""), (7, 11), "no length of time"),
        (undone("a", "gives = \"u32\""), (7, 9), "unknown type \"u32\""),
        (
            undone("a", "") + &undone("b", "after = [\"a\"]\ntakes = [\"a\"]"),
            (12, 10),
            "gives nothing",
        ),
        (
            undone("a", "gives = \"u64\"") + &undone("b", "takes = [\"a\"]"),
            (11, 10),
            "on which it does not depend",
        ),
        (
            undone("a", "gives = \"u64\"") + &undone("b", "after = [\"a\", \"a\"]"),
            (11, 15),
            "depends on \"a\" twice",
        ),
        (step("a", "kind = \"retriable\""), (6, 8), "no pivot stands before it"),
        (step("a", "kind = \"pivot\"") + &step("b", "kind = \"pivot\""), (9, 8), "both pivots"),
        (step("a", "kind = \"pivot\"") + &undone("b", ""), (8, 8), "neither before nor behind"),
        (
            step("a", "kind = \"pivot\"") + &undone("b", "after = [\"a\"]"),
            (8, 8),
            "\"b\" is compensatable, and stands behind the pivot",
        ),
        (undone("a", "color = 1"), (7, 1), "unknown field"),
        ("timeout = 5".to_owned(), (4, 11), "expected a string"),
    ] {
        let (line, column, message) = wrong(&lines);
        assert!(message.contains(words), "{lines}\n{message}");
        assert_eq!((line, column), place, "{lines}\n{message}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_and_limits_count() {
    let text =
        "format = 1\nname = \"N\"\nversion = 0\n[[step]]\nname = \"a\"\nkind = \"red-only\"\n";
    let mistakes = SagaFile::parse("x", text).expect_err("it is wrong");
    let lines: Vec<u64> = mistakes.mistakes.iter().map(|found| found.line_and_column().0).collect();
    assert_eq!(lines, [2, 3, 6]);
    assert_eq!(mistakes.mistakes[2].help.as_deref(), Some("did you mean \"read-only\"?"));
    assert_eq!(mistakes.to_string(), "x: 3 mistakes");
    let other = SagaFile::parse("x", "format = 2\nanything = 1\n").expect_err("another format");
    assert!(other.mistakes[0].message.contains("this build reads format 1"));
    let few = saga::Limits { steps_max: 4, ..saga::Limits::default() };
    let many = SagaFile::parse_within("order.toml", ORDER, few).expect_err("five steps");
    assert!(many.mistakes[0].message.contains("at most 4"), "{many:?}");
}

/// Whatever stands in a file, it is read or refused.
#[test]
fn no_text_panics() {
    for cut in 0..ORDER.len() {
        let _ = SagaFile::parse("cut", &ORDER[..cut]);
        let changed = [&ORDER[..cut], "\u{7f}", &ORDER[cut + 1..]].concat();
        if let Err(mistakes) = SagaFile::parse("changed", &changed) {
            let report = miette::GraphicalReportHandler::new();
            report.render_report(&mut String::new(), &mistakes).unwrap();
        }
    }
}

#[test]
fn mistakes_of_operations_have_their_places() {
    let saga = "[[saga]]\nname = \"b\"\nversion = 1\n[[saga.step]]\nname = \"z\"\n";
    let (undo, pivot) = ("undo = \"u\"\n", "kind = \"pivot\"\n");
    let step = "[[step]]\nname = \"a\"\n";
    for (text, line, expected) in [
        (format!("{step}transaction = [\"p\"]"), 5, "step \"a\" has no compensation"),
        (format!("{step}{undo}transaction = []"), 7, "a transaction without participants"),
        (format!("{step}{undo}transaction = [\"p\", \"p\"]"), 7, "\"p\" takes part twice"),
        (format!("{step}undo-transaction = [\"p\"]"), 6, "a call is undone by a call"),
        (format!("{step}{undo}undo-transaction = [\"p\"]"), 7, "it is undone twice"),
        (format!("{step}{pivot}undo-transaction = [\"p\"]"), 7, "a pivot step is never undone"),
        (format!("{step}saga = \"c\"\n{saga}{undo}"), 6, "unknown saga \"c\""),
        (format!("{step}saga = \"b\"\n{saga}"), 11, "step \"z\" has no compensation"),
        (format!("{step}saga = \"b\"\n{saga}{pivot}"), 6, "and \"z\" has none: name an undo"),
        (format!("{step}saga = \"b\"\n{saga}saga = \"b\""), 12, "b holds b"),
        (
            format!("{step}saga = \"b\"\ntransaction = [\"p\"]\n{undo}{saga}{undo}"),
            6,
            "it is done twice",
        ),
        (
            format!("{step}saga = \"b\"\ngives = \"u64\"\n{saga}{undo}"),
            7,
            "gives u64, and what does it gives nothing",
        ),
        (
            format!("{step}saga = \"b\"\nkind = \"read-only\"\n{saga}{undo}"),
            7,
            "cannot be read-only",
        ),
        (format!("{step}{undo}{saga}{undo}{saga}{undo}"), 14, "the name \"b\" is taken"),
    ] {
        let (at, _, message) = wrong(&text);
        assert!(message.contains(expected), "{text}: {message}");
        assert_eq!(at, line, "{text}: {message}");
    }
}

/// What is generated for a file is the definition that the file is.
#[test]
fn generated_operations_are_those_of_the_file() {
    let text = include_str!("trip.toml");
    let file = SagaFile::parse("trip.toml", text).unwrap();
    same("trip.rs", &file.rust("trip.toml"));
    same("trip.dot", &file.dot());
    struct At;
    let (node, shard) = (NodeName::numbered, base::ShardId::numbered);
    fn body(undo: bool) -> std::sync::Arc<[u8]> {
        std::sync::Arc::from([u8::from(undo)])
    }
    impl saga_toml::Places for At {
        fn call(
            &mut self,
            _: &SagaFile,
            _: &saga_toml::FileStep,
        ) -> (NodeName, std::sync::Arc<[u8]>) {
            (NodeName::numbered(1), body(false))
        }

        fn branch(
            &mut self,
            _: &SagaFile,
            _: &saga_toml::FileStep,
            participant: &saga::Label,
            undo: bool,
        ) -> saga::Branch {
            let number = participant.as_str().len() as u64;
            let (shard, node) = (base::ShardId::numbered(number), NodeName::numbered(number));
            saga::Branch { shard, node, work: body(undo) }
        }
    }
    let branch = |who: &str, undo| {
        let number = who.len() as u64;
        saga::Branch { shard: shard(number), node: node(number), work: body(undo) }
    };
    let place = || (node(1), body(false));
    let generated = trip::trip_definition(
        |_| place(),
        |_, who, undo| branch(who, undo),
        |step| match step {
            trip::TripStep::Book => {
                trip::booking::booking_definition(|_| place(), |_, who, undo| branch(who, undo))
            }
            _ => trip::letters::letters_definition(|_| place()),
        },
    );
    let read = file.definition_with(&mut At);
    assert_eq!(read, generated);
    assert_eq!(read.fingerprint(), generated.fingerprint());
    assert_ne!(file.bare().fingerprint(), read.fingerprint());
}

#[test]
fn the_graph_is_as_drawn() {
    same("order.dot", &order().dot());
    same("order.svg", &order().svg());
}

#[test]
fn the_rust_is_what_this_test_is_compiled_with() {
    same("generated.rs", &order().rust("order.toml"));
}

// ---- what was made of the file, at work ----

/// Code for the steps: it keeps what it was given.
#[derive(Default)]
struct Shop {
    did: Vec<String>,
    declined: bool,
    looked: u32,
}

impl OrderActions for Shop {
    fn do_reserve(&mut self, _: Token, body: &[u8]) -> OrderAnswer<u64> {
        self.did.push("reserve".to_owned());
        OrderAnswer::Done(u64::from(body[0]))
    }

    fn undo_reserve(&mut self, _: Token, _: &[u8], given: Option<u64>) -> OrderAnswer<()> {
        self.did.push(format!("release {given:?}"));
        OrderAnswer::Done(())
    }

    fn do_check_address(&mut self, _: Token, _: &[u8]) -> OrderAnswer<bool> {
        self.looked += 1;
        if self.looked == 1 { OrderAnswer::NotNow } else { OrderAnswer::Done(true) }
    }

    fn do_charge(
        &mut self,
        _: Token,
        _: &[u8],
        from_reserve: u64,
        from_check_address: bool,
    ) -> OrderAnswer<String> {
        self.did.push(format!("charge {from_reserve} {from_check_address}"));
        if self.declined {
            return OrderAnswer::Refused { code: 402 };
        }
        OrderAnswer::Done("paid".to_owned())
    }

    fn do_ship(
        &mut self,
        _: Token,
        _: &[u8],
        from_reserve: u64,
        from_charge: String,
    ) -> Option<()> {
        self.did.push(format!("ship {from_reserve} {from_charge}"));
        // Not now, the first time.
        (self.did.len() > 3).then_some(())
    }

    fn do_thank(&mut self, _: Token, _: &[u8], from_charge: String) -> Option<()> {
        self.did.push(format!("thank {from_charge}"));
        Some(())
    }
}

/// Runs a saga of the generated definition with the generated calls, as a shell would.
fn run(shop: &mut Shop) -> End {
    let definition = order_definition(|step| (NodeName::numbered(step as u64), [7].into()));
    assert_eq!(
        definition,
        order().definition(|step| {
            let at = order().steps.iter().position(|other| other.name == step.name).unwrap();
            (NodeName::numbered(at as u64), [7].into())
        })
    );
    let admission = Saga::admission(&definition, CoordinatorId::numbered(1), 5, None);
    let mut saga = Saga::created(OperationId(1), Sequence(1), &admission[0]).unwrap();
    let mut last = 1;
    let mut apply = |saga: &mut Saga, event| {
        last += 1;
        saga.apply(Sequence(last), &event).unwrap();
    };
    admission.into_iter().skip(1).for_each(|event| apply(&mut saga, event));
    loop {
        let mut owed = Vec::new();
        saga.pending(&mut owed);
        for effect in owed {
            let (step, direction, token) = match effect {
                Effect::Run { step, token, .. } => (step, Direction::Forward, token),
                Effect::Compensate { step, token, .. } => (step, Direction::Backward, token),
                Effect::Tell { end, .. } => return end,
                Effect::MarkDone { .. } => unreachable!("nobody orders anything"),
            };
            let inputs = saga.inputs(step, direction);
            let outcome = call_order(shop, step, direction, token, &[7], &inputs);
            let mut fact = saga.decide(&Input::Outcome { step, direction, outcome });
            while let Some(event) = fact {
                apply(&mut saga, event);
                fact = saga.settle();
            }
        }
    }
}

#[test]
fn the_generated_code_runs_an_order() {
    let mut shop = Shop::default();
    assert_eq!(run(&mut shop), End::Completed);
    let did = ["reserve", "charge 7 true", "ship 7 paid", "ship 7 paid", "thank paid"];
    assert_eq!((shop.did, shop.looked), (did.map(str::to_owned).to_vec(), 2));
    let mut poor = Shop { declined: true, ..Shop::default() };
    assert_eq!(run(&mut poor), End::Compensated);
    assert_eq!(poor.did, ["reserve", "charge 7 true", "release Some(7)"]);
}

#[test]
fn a_call_that_is_not_as_the_file_says_is_unknown() {
    let (mut shop, token) = (Shop::default(), Token::new(1));
    for (step, direction) in [
        (OrderStep::Charge as u32, Direction::Forward),
        (OrderStep::Charge as u32, Direction::Backward),
        (99, Direction::Forward),
    ] {
        let outcome = call_order(&mut shop, step, direction, token, &[], &[]);
        assert_eq!(outcome, Outcome::Unknown);
    }
    assert!(shop.did.is_empty());
    assert_eq!(OrderStep::of(4), Some(OrderStep::Thank));
    assert_eq!(OrderStep::of(5), None);
}
