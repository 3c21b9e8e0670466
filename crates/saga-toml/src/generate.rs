//! Rust for a saga: an enumeration of its steps, a trait with a typed function for each, the definition,
//! and what takes a call apart.

use crate::file::{FilePerformer, FileStep, SagaFile};
use saga::{StepKind, ValueType};
use std::fmt::Write;

impl SagaFile {
    /// Rust that uses the crates `saga` and `base`, and nothing else; `origin` is what its first line
    /// calls the file. Its functions are typed by what steps give and take: a step that cannot fail has
    /// no way to refuse, and an undo is given what its step gave, if that is known.
    #[must_use]
    pub fn rust(&self, origin: &str) -> String {
        let origin: String = origin.chars().filter(|c| !c.is_control()).collect();
        let mut out = format!(
            "// Made from {origin} by `trinity saga generate`: change that file, and make it anew.\n\n"
        );
        self.write_saga(&mut out);
        out
    }

    /// What belongs to one saga; each saga that is a step of it has a module of its own.
    fn write_saga(&self, out: &mut String) {
        let name = self.name.as_str();
        let (camel, snake_name) = (camel(name), snake(name));
        self.write_steps(out, &camel);
        self.write_definition(out, &camel, &snake_name);
        self.write_actions(out, &camel);
        self.write_call(out, &camel, &snake_name);
        let mut written: Vec<&str> = Vec::new();
        for step in &self.steps {
            let FilePerformer::Saga(inner) = &step.performer else { continue };
            if !written.contains(&inner.name.as_str()) {
                written.push(inner.name.as_str());
                let module = snake(inner.name.as_str());
                let _ = write!(
                    out,
                    "\n/// The saga `{}`, a step of `{name}`.\npub mod {module} {{\n\n",
                    inner.name
                );
                inner.write_saga(out);
                out.push_str("}\n");
            }
        }
    }

    /// The steps that are asked about in one of three ways: called, done or undone by a transaction, sagas.
    fn asks(&self) -> [bool; 3] {
        let saga = |step: &FileStep| matches!(step.performer, FilePerformer::Saga(_));
        let any = |of: &dyn Fn(&FileStep) -> bool| self.steps.iter().any(of);
        [any(&FileStep::is_called), any(&FileStep::has_transaction), any(&saga)]
    }

    fn write_steps(&self, out: &mut String, camel: &str) {
        let (name, version) = (&self.name, self.version);
        let count = self.steps.len();
        let _ = writeln!(
            out,
            "/// The steps of the saga `{name}`, version {version}, by their numbers.\n\
             #[derive(Clone, Copy, Debug, PartialEq, Eq)]\n\
             pub enum {camel}Step {{"
        );
        for (number, step) in self.steps.iter().enumerate() {
            let _ = writeln!(out, "    /// `{}`\n    {} = {number},", step.name, variant(step));
        }
        let _ = writeln!(
            out,
            "}}\n\n\
             impl {camel}Step {{\n    \
                 /// Every step; a step's number is its place here.\n    \
                 pub const ALL: [{camel}Step; {count}] = ["
        );
        for step in &self.steps {
            let _ = writeln!(out, "        {camel}Step::{},", variant(step));
        }
        out.push_str(
            "    ];\n\n    \
             /// The step of this number.\n    \
             #[must_use]\n    \
             pub fn of(number: u32) -> Option<Self> {\n        \
                 Self::ALL.get(number as usize).copied()\n    \
             }\n}\n\n",
        );
    }

    fn write_definition(&self, out: &mut String, camel: &str, snake: &str) {
        let (name, version) = (&self.name, self.version);
        let steps_max = self.steps.len();
        let widest = self.steps.iter().map(|step| step.after.len()).max().unwrap_or(0);
        let depth = self.bare().depth();
        let [called, transactions, sagas] = self.asks();
        let mut parameters = String::new();
        let mut says = Vec::new();
        if called || !transactions && !sagas {
            says.push("`place` says where each step runs, and what it is asked");
            let _ = writeln!(
                parameters,
                "    mut place: impl FnMut({camel}Step) -> (base::NodeName, std::sync::Arc<[u8]>),"
            );
        }
        if transactions {
            says.push(
                "`branch` what a participant of a step's transaction is asked, or of its undo's",
            );
            let _ = writeln!(
                parameters,
                "    mut branch: impl FnMut({camel}Step, &'static str, bool) -> saga::Branch,"
            );
        }
        if sagas {
            says.push("`inner` which saga a step is: see the modules");
            let _ =
                writeln!(parameters, "    mut inner: impl FnMut({camel}Step) -> saga::Definition,");
        }
        let says = says.join(", ");
        let _ = writeln!(
            out,
            "/// The saga `{name}`, version {version}: {says}.\n\
             #[must_use]\n\
             pub fn {snake}_definition(\n\
                 {parameters}\
             ) -> saga::Definition {{\n    \
                 let label = |name| saga::Label::new(name).expect(\"the generator has checked its length\");\n    \
                 let mut builder = saga::Definition::builder();\n    \
                 builder.limits(saga::Limits {{ steps_max: {steps_max}, dependencies_max: {widest}, depth_max: {depth} }});\n    \
                 builder.name(label({:?}), {version});",
            name.as_str()
        );
        if let Some(timeout) = self.timeout {
            let millis = timeout.as_millis();
            let _ =
                writeln!(out, "    builder.timeout(std::time::Duration::from_millis({millis}));");
        }
        for step in &self.steps {
            let of = format!("{camel}Step::{}", variant(step));
            if step.is_called() {
                let _ = writeln!(out, "    let (node, body) = place({of});");
            }
            let branches = |participants: &[saga::Label], undo: bool| {
                let names: Vec<&str> = participants.iter().map(saga::Label::as_str).collect();
                format!("{names:?}.map(|who| branch({of}, who, {undo}))")
            };
            out.push_str("    builder.step(\n        ");
            let _ = match &step.performer {
                FilePerformer::Node => writeln!(
                    out,
                    "saga::Step::new(saga::Action::Custom, node, body)\n            \
                         .named(label({:?}))",
                    step.action.as_str()
                ),
                FilePerformer::Transaction(participants) => {
                    writeln!(out, "saga::Step::transaction({})", branches(participants, false))
                }
                FilePerformer::Saga(_) => writeln!(out, "saga::Step::saga(inner({of}))"),
            };
            if step.performer != FilePerformer::Node && step.undo.is_some() {
                out.push_str("            .undone_at(node, body)\n");
            }
            if !step.undo_transaction.is_empty() {
                let back = branches(&step.undo_transaction, true);
                let _ = writeln!(out, "            .undone_by_transaction({back})");
            }
            let _ = writeln!(out, "            .kind(saga::StepKind::{:?})", step.kind);
            if let Some(attempts) = step.attempts {
                let _ = writeln!(out, "            .attempts({attempts})");
            }
            if let Some(undo) = &step.undo {
                let _ = writeln!(out, "            .undone_by(label({:?}))", undo.as_str());
            }
            if let Some(timeout) = step.timeout {
                let millis = timeout.as_millis();
                let _ = writeln!(
                    out,
                    "            .timeout(std::time::Duration::from_millis({millis}))"
                );
            }
            if let Some(gives) = step.gives {
                let _ = writeln!(out, "            .gives(saga::ValueType::{gives:?})");
            }
            for on in &step.after {
                let _ = writeln!(out, "            .after({on})");
            }
            for (from, value) in &step.takes {
                let _ = writeln!(out, "            .takes({from}, saga::ValueType::{value:?})");
            }
            out.push_str("    );\n");
        }
        out.push_str("    builder.build().expect(\"the generator has built it once\")\n}\n\n");
    }

    fn write_actions(&self, out: &mut String, camel: &str) {
        let name = &self.name;
        let _ = write!(
            out,
            "/// What became of a step of `{name}` that may be refused.\n\
             #[derive(Clone, Debug, PartialEq, Eq)]\n\
             pub enum {camel}Answer<T> {{\n    \
                 /// It is done, and durable with its token.\n    \
                 Done(T),\n    \
                 /// It is refused for good, and that is durable with its token.\n    \
                 Refused {{\n        \
                     /// The reason, for the log.\n        \
                     code: u32,\n    \
                 }},\n    \
                 /// Not now: it is called again.\n    \
                 NotNow,\n\
             }}\n\n\
             /// The code of the steps of `{name}`. Each is called again with the same token until its answer\n\
             /// arrives, so token and effect belong in one local transaction.\n\
             pub trait {camel}Actions {{\n"
        );
        for step in &self.steps {
            if step.performer != FilePerformer::Node {
                self.write_undo_of_operation(out, step, camel);
                continue;
            }
            let gives = step.gives.map_or("()", rust_type);
            let answer = self.answer(step, camel, gives);
            let _ = writeln!(
                out,
                "    /// The action `{}`, {}{}.",
                step.action,
                step.kind.name(),
                if answer.starts_with("Option") { "; `None`: not now" } else { "" }
            );
            let mut takes = String::new();
            for (from, value) in &step.takes {
                let from = snake(self.steps[*from as usize].name.as_str());
                let _ = write!(takes, ", from_{from}: {}", rust_type(*value));
            }
            let function = snake(step.name.as_str());
            let _ = writeln!(
                out,
                "    fn do_{function}(&mut self, token: base::Token, body: &[u8]{takes}) -> {answer};"
            );
            if let Some(undo) = &step.undo {
                let given = step.gives.map_or(String::new(), given_type);
                let _ = writeln!(
                    out,
                    "    /// The action `{undo}`, which undoes it, whether or not it ever ran. A refusal fails\n    \
                         /// this attempt only.\n    \
                         fn undo_{function}(&mut self, token: base::Token, body: &[u8]{given}) -> {camel}Answer<()>;"
                );
            }
        }
        out.push_str("}\n\n");
    }

    fn write_undo_of_operation(&self, out: &mut String, step: &FileStep, camel: &str) {
        let Some(undo) = &step.undo else { return };
        let function = snake(step.name.as_str());
        let given = step.gives.map_or(String::new(), given_type);
        let _ = writeln!(
            out,
            "    /// The action `{undo}`, which undoes what a transaction or a saga has done. A refusal fails\n    \
                 /// this attempt only.\n    \
                 fn undo_{function}(&mut self, token: base::Token, body: &[u8]{given}) -> {camel}Answer<()>;"
        );
    }

    /// A step that cannot fail is done, or not yet.
    fn answer(&self, step: &FileStep, camel: &str, gives: &str) -> String {
        let pivot = self.steps.iter().position(|step| step.kind == StepKind::Pivot);
        let place = self.steps.iter().position(|other| other.name == step.name);
        // Steps stand behind what they depend on, and a checked one is before or behind the pivot.
        let behind = pivot.zip(place).is_some_and(|(pivot, place)| place > pivot);
        if behind { format!("Option<{gives}>") } else { format!("{camel}Answer<{gives}>") }
    }

    fn write_call(&self, out: &mut String, camel: &str, snake_name: &str) {
        let name = &self.name;
        let called = self.steps.iter().any(FileStep::is_called);
        let unused = if called { "" } else { "let _ = (actions, token, body);\n    " };
        let _ = write!(
            out,
            "/// Calls the code of a step of `{name}`, or of its compensation, with what it is given, and says\n\
             /// what became of it. What is not given as the file says is Unknown: it is called again.\n\
             pub fn call_{snake_name}(\n    \
                 actions: &mut impl {camel}Actions,\n    \
                 step: u32,\n    \
                 direction: saga::Direction,\n    \
                 token: base::Token,\n    \
                 body: &[u8],\n    \
                 inputs: &[saga::StepInput],\n\
             ) -> saga::Outcome {{\n    \
                 // Not every saga has each of these.\n    \
                 let _ = inputs;\n    \
                 {unused}\
                 match ({camel}Step::of(step), direction) {{\n"
        );
        for step in &self.steps {
            self.write_forward(out, step, camel);
            self.write_backward(out, step, camel);
        }
        out.push_str(
            "        // No saga of this definition calls anything else.\n        \
             _ => saga::Outcome::Unknown,\n    }\n}\n",
        );
        self.write_helpers(out, camel);
    }

    fn write_forward(&self, out: &mut String, step: &FileStep, camel: &str) {
        if step.performer != FilePerformer::Node {
            return;
        }
        {
            let function = snake(step.name.as_str());
            let variant = variant(step);
            let _ = writeln!(
                out,
                "        (Some({camel}Step::{variant}), saga::Direction::Forward) => {{"
            );
            let mut arguments = String::new();
            for (from, value) in &step.takes {
                let input = format!("from_{}", snake(self.steps[*from as usize].name.as_str()));
                let _ = writeln!(
                    out,
                    "            let Some({input}) = given(inputs, {from}).and_then({}) else {{\n                \
                         return saga::Outcome::Unknown;\n            \
                     }};",
                    decode(*value)
                );
                let _ = write!(arguments, ", {input}");
            }
            let done = step
                .gives
                .map_or("done".to_owned(), |value| format!("|value| done_with({})", encode(value)));
            let gives = step.gives.map_or("()", rust_type);
            let call = format!("actions.do_{function}(token, body{arguments})");
            if self.answer(step, camel, gives).starts_with("Option") {
                let _ = writeln!(
                    out,
                    "            {call}.map_or(saga::Outcome::Unknown, {done})\n        }}"
                );
            } else {
                let _ = writeln!(out, "            answered({call}, {done})\n        }}");
            }
        }
    }

    fn write_backward(&self, out: &mut String, step: &FileStep, camel: &str) {
        let (function, variant) = (snake(step.name.as_str()), variant(step));
        {
            if step.undo.is_some() {
                let number = self.steps.iter().position(|other| other.name == step.name);
                let number = number.unwrap_or_default();
                let given = step.gives.map_or(String::new(), |value| {
                    format!(", given(inputs, {number}).and_then({})", decode(value))
                });
                let _ = writeln!(
                    out,
                    "        (Some({camel}Step::{variant}), saga::Direction::Backward) => {{\n            \
                         answered(actions.undo_{function}(token, body{given}), done)\n        \
                     }}"
                );
            }
        }
    }

    fn write_helpers(&self, out: &mut String, camel: &str) {
        let called = || self.steps.iter().filter(|step| step.performer == FilePerformer::Node);
        let undone = self.steps.iter().any(|step| step.undo.is_some());
        let fallible =
            undone || called().any(|step| !self.answer(step, camel, "").starts_with("Option"));
        let plain = undone || called().any(|step| step.gives.is_none());
        if plain {
            out.push_str("\nfn done((): ()) -> saga::Outcome {\n    saga::Outcome::Done\n}\n");
        }
        if called().any(|step| step.gives.is_some()) {
            out.push_str(
                "\nfn done_with(bytes: impl Into<std::sync::Arc<[u8]>>) -> saga::Outcome {\n    \
                 saga::Outcome::DoneWith(saga::Output::Inline(bytes.into()))\n}\n",
            );
        }
        if fallible {
            let _ = write!(
                out,
                "\nfn answered<T>(answer: {camel}Answer<T>, done: impl Fn(T) -> saga::Outcome) -> saga::Outcome {{\n    \
                     match answer {{\n        \
                         {camel}Answer::Done(value) => done(value),\n        \
                         {camel}Answer::Refused {{ code }} => saga::Outcome::Refused {{ code }},\n        \
                         {camel}Answer::NotNow => saga::Outcome::Unknown,\n    \
                     }}\n}}\n"
            );
        }
        let undone_with = |step: &FileStep| step.undo.is_some() && step.gives.is_some();
        if self.steps.iter().any(|step| !step.takes.is_empty() || undone_with(step)) {
            out.push_str(
                "\n/// What a step gave, if it is at hand: what is known by its hash alone is not.\n\
                 fn given(inputs: &[saga::StepInput], step: u32) -> Option<&[u8]> {\n    \
                     let input = inputs.iter().find(|input| input.step == step)?;\n    \
                     match &input.output {\n        \
                         saga::Output::Inline(bytes) => Some(bytes),\n        \
                         saga::Output::Hashed { .. } => None,\n    \
                     }\n}\n",
            );
        }
    }
}

/// What an undo is given of what its step gave.
fn given_type(value: ValueType) -> String {
    format!(", given: Option<{}>", rust_type(value))
}

fn rust_type(value: ValueType) -> &'static str {
    match value {
        ValueType::Text => "String",
        ValueType::U64 => "u64",
        ValueType::I64 => "i64",
        ValueType::Bool => "bool",
        _ => "Vec<u8>",
    }
}

fn decode(value: ValueType) -> &'static str {
    match value {
        ValueType::Text => "|bytes| String::from_utf8(bytes.to_vec()).ok()",
        ValueType::U64 => "|bytes| bytes.try_into().ok().map(u64::from_le_bytes)",
        ValueType::I64 => "|bytes| bytes.try_into().ok().map(i64::from_le_bytes)",
        ValueType::Bool => {
            "|bytes| match bytes { [0] => Some(false), [1] => Some(true), _ => None }"
        }
        _ => "|bytes| Some(bytes.to_vec())",
    }
}

fn encode(value: ValueType) -> &'static str {
    match value {
        ValueType::Text => "value.into_bytes()",
        ValueType::U64 | ValueType::I64 => "value.to_le_bytes()",
        ValueType::Bool => "[u8::from(value)]",
        _ => "value",
    }
}

fn snake(name: &str) -> String {
    name.replace('-', "_")
}

/// A name as a type's.
pub(crate) fn camel(name: &str) -> String {
    let mut upper = true;
    let mut camel = String::new();
    for c in name.chars() {
        if "-_".contains(c) {
            upper = true;
        } else if std::mem::take(&mut upper) {
            camel.push(c.to_ascii_uppercase());
        } else {
            camel.push(c);
        }
    }
    camel
}

/// A step's name as a variant: the one word that cannot be one gets a second.
fn variant(step: &FileStep) -> String {
    match camel(step.name.as_str()).as_str() {
        "Self" => "SelfStep".to_owned(),
        other => other.to_owned(),
    }
}
