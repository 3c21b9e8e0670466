//! The file: what it may say, and what is wrong with one that says something else.

use crate::generate::camel;
use base::NodeName;
use miette::{Diagnostic, NamedSource, SourceSpan};
use saga::{
    Action, Builder, Definition, DefinitionError, Label, Limits, Step, StepKind, ValueType,
};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use toml::Spanned;

/// The version of the format that this code reads.
pub const FORMAT: u32 = 1;

/// A definition of a saga, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SagaFile {
    /// What sagas of it are called.
    pub name: Label,
    /// The version of what stands under this name, from 1.
    pub version: u32,
    /// A saga of it is undone if it is not done so long after it was started.
    pub timeout: Option<Duration>,
    /// Its steps, each behind those that it depends on; otherwise as they stand in the file.
    pub steps: Vec<FileStep>,
}

/// A step of a [`SagaFile`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStep {
    /// What others call it: lower-case letters, digits, `-` and `_`.
    pub name: Label,
    /// The name by which its code is found: its own, unless the file says another.
    pub action: Label,
    /// The name by which the code of its compensation is found.
    pub undo: Option<Label>,
    /// What may become of it.
    pub kind: StepKind,
    /// What it depends on, as places in [`SagaFile::steps`].
    pub after: Vec<u32>,
    /// Whose outputs it is given, and as what.
    pub takes: Vec<(u32, ValueType)>,
    /// What its success brings.
    pub gives: Option<ValueType>,
    /// It is given up so long after it was first called.
    pub timeout: Option<Duration>,
}

/// Something that is wrong with a file, and where.
#[derive(Clone, Debug, Diagnostic, thiserror::Error)]
#[error("{message}")]
#[diagnostic()]
pub struct Mistake {
    /// What is wrong, for people.
    pub message: String,
    /// Where, in bytes.
    #[label("{label}")]
    pub span: SourceSpan,
    /// What stands below the place.
    pub label: String,
    /// What to do about it.
    #[help]
    pub help: Option<String>,
    #[source_code]
    source_code: Arc<NamedSource<String>>,
}

impl Mistake {
    /// The line of its place, from 1, and the column, in characters from 1.
    #[must_use]
    pub fn line_and_column(&self) -> (u64, u64) {
        let text = self.source_code.inner();
        let before = text.get(..self.span.offset()).unwrap_or(text);
        let line = before.matches('\n').count() as u64 + 1;
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        (line, before[start..].chars().count() as u64 + 1)
    }
}

/// Everything that is wrong with a file: at least one mistake, in the file's order.
#[derive(Clone, Debug, Diagnostic, thiserror::Error)]
#[error("{name}: {}", counted(mistakes.len()))]
#[diagnostic()]
pub struct Mistakes {
    name: String,
    /// Each of them.
    #[related]
    pub mistakes: Vec<Mistake>,
}

fn counted(mistakes: usize) -> String {
    if mistakes == 1 { "one mistake".to_owned() } else { format!("{mistakes} mistakes") }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    // Looked at before everything else.
    #[expect(dead_code, reason = "a key that has to be there, and that is read apart")]
    format: u32,
    name: Spanned<String>,
    version: Spanned<u32>,
    timeout: Option<Spanned<String>>,
    #[serde(default)]
    step: Vec<Spanned<RawStep>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStep {
    name: Spanned<String>,
    action: Option<Spanned<String>>,
    undo: Option<Spanned<String>>,
    kind: Option<Spanned<String>>,
    #[serde(default)]
    after: Vec<Spanned<String>>,
    #[serde(default)]
    takes: Vec<Spanned<String>>,
    gives: Option<Spanned<String>>,
    timeout: Option<Spanned<String>>,
}

/// The mistakes of one file, as they are found.
struct Found {
    source: Arc<NamedSource<String>>,
    mistakes: Vec<Mistake>,
}

impl Found {
    fn add(&mut self, place: Range<usize>, message: String, help: Option<String>) {
        self.mistakes.push(Mistake {
            message: printable(&message),
            span: place.into(),
            label: "here".to_owned(),
            help,
            source_code: Arc::clone(&self.source),
        });
    }

    fn end(mut self, name: &str) -> Result<(), Mistakes> {
        if self.mistakes.is_empty() {
            return Ok(());
        }
        self.mistakes.sort_by_key(|mistake| mistake.span.offset());
        Err(Mistakes { name: name.to_owned(), mistakes: self.mistakes })
    }

    fn only(mut self, name: &str, place: Range<usize>, message: String) -> Mistakes {
        self.add(place, message, None);
        Mistakes { name: name.to_owned(), mistakes: self.mistakes }
    }

    fn label(&mut self, text: &Spanned<String>) -> Option<Label> {
        match Label::new(text.get_ref()) {
            Ok(label) => Some(label),
            Err(error) => {
                self.add(text.span(), error.to_string(), None);
                None
            }
        }
    }

    /// A name that becomes one of Rust, too.
    fn name(&mut self, text: &Spanned<String>) -> Option<Label> {
        let mut letters = text.get_ref().chars();
        let fits = letters.next().is_some_and(|c| c.is_ascii_lowercase())
            && letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c));
        if !fits {
            let message = format!("\"{}\" is no name", text.get_ref());
            let help = "a name begins with a lower-case letter; letters, digits, - and _ follow";
            self.add(text.span(), message, Some(help.to_owned()));
            return None;
        }
        self.label(text)
    }

    fn duration(&mut self, text: Option<&Spanned<String>>) -> Option<Duration> {
        let text = text?;
        let found = duration(text.get_ref());
        if found.is_none() {
            let message = format!("\"{}\" is no length of time", text.get_ref());
            let help = "a whole number and ms, s, m or h, at most a year: \"1500ms\", \"5m\"";
            self.add(text.span(), message, Some(help.to_owned()));
        }
        found
    }

    fn word<T: Copy>(
        &mut self,
        what: &str,
        text: &Spanned<String>,
        valid: &[(&'static str, T)],
    ) -> Option<T> {
        let found = valid.iter().find(|(name, _)| name == text.get_ref());
        if found.is_none() {
            let names: Vec<&str> = valid.iter().map(|(name, _)| *name).collect();
            self.unknown(what, text, &names);
        }
        found.map(|(_, value)| *value)
    }

    fn unknown(&mut self, what: &str, text: &Spanned<String>, valid: &[&str]) {
        let message = format!("unknown {what} \"{}\"", text.get_ref());
        let help = match nearest(text.get_ref(), valid) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None if valid.is_empty() => "there is none".to_owned(),
            None => format!("expected one of {}", valid.join(", ")),
        };
        self.add(text.span(), message, Some(help));
    }
}

impl SagaFile {
    /// Reads a file under the default [`Limits`]; `name` is what errors call it.
    ///
    /// # Errors
    /// [`Mistakes`], each with its place.
    pub fn parse(name: &str, text: &str) -> Result<SagaFile, Mistakes> {
        SagaFile::parse_within(name, text, Limits::default())
    }

    /// The same under other limits.
    ///
    /// # Errors
    /// [`Mistakes`], each with its place.
    pub fn parse_within(name: &str, text: &str, limits: Limits) -> Result<SagaFile, Mistakes> {
        let source = Arc::new(NamedSource::new(name, shown(text)));
        let mut found = Found { source, mistakes: Vec::new() };
        if let Some((place, format)) = other_format(text) {
            let message = format!("format {format}: this build reads format {FORMAT}");
            return Err(found.only(name, place, message));
        }
        let raw: Raw = match toml::from_str(text) {
            Ok(raw) => raw,
            Err(error) => {
                let place = error.span().unwrap_or(0..0);
                return Err(found.only(name, place, error.message().to_owned()));
            }
        };
        let saga_name = found.name(&raw.name);
        if *raw.version.get_ref() == 0 {
            found.add(raw.version.span(), "versions count from 1".to_owned(), None);
        }
        let timeout = found.duration(raw.timeout.as_ref());
        if raw.step.is_empty() {
            found.add(raw.name.span(), "a saga needs at least one step".to_owned(), None);
        }
        let order = order(&raw.step, &mut found);
        let steps = read_steps(&raw.step, order.as_deref(), &mut found);
        let (Some(steps), Some(saga_name)) = (steps, saga_name) else {
            let ended = found.end(name);
            return Err(ended.expect_err("what is missing was found to be wrong"));
        };
        found.end(name)?;
        let version = *raw.version.get_ref();
        let file = SagaFile { name: saga_name, version, timeout, steps };
        let order = order.expect("without an order there are no steps");
        let node = NodeName::default();
        if let Err(error) = file.builder(limits, |_| (node, Arc::from([]))).build() {
            let source = Arc::new(NamedSource::new(name, shown(text)));
            let found = Found { source, mistakes: Vec::new() };
            let place = place_of(&error, &raw, &order);
            return Err(found.only(name, place, in_names(&error, &file)));
        }
        Ok(file)
    }

    fn builder(
        &self,
        limits: Limits,
        mut place: impl FnMut(&FileStep) -> (NodeName, Arc<[u8]>),
    ) -> Builder {
        let mut builder = Definition::builder();
        builder.limits(limits).name(self.name.clone(), self.version);
        if let Some(timeout) = self.timeout {
            builder.timeout(timeout);
        }
        for step in &self.steps {
            let (node, body) = place(step);
            let mut made = Step::new(Action::Custom, node, body).kind(step.kind);
            made = made.named(step.action.clone());
            if let Some(undo) = &step.undo {
                made = made.undone_by(undo.clone());
            }
            if let Some(timeout) = step.timeout {
                made = made.timeout(timeout);
            }
            if let Some(gives) = step.gives {
                made = made.gives(gives);
            }
            made = step.after.iter().fold(made, |made, on| made.after(*on));
            made = step.takes.iter().fold(made, |made, (from, value)| made.takes(*from, *value));
            builder.step(made);
        }
        builder
    }

    /// A saga of it, with `place` saying where each step runs and what it is asked.
    ///
    /// # Panics
    /// Never, for a file that [`SagaFile::parse`] made: it was built once then.
    #[must_use]
    pub fn definition(&self, place: impl FnMut(&FileStep) -> (NodeName, Arc<[u8]>)) -> Definition {
        let most = u32::MAX;
        let limits = Limits { steps_max: most, dependencies_max: most, depth_max: most };
        let builder = self.builder(limits, place);
        builder.build().expect("a file is checked when it is read")
    }
}

/// The steps' places in the file, each behind what it depends on; `None` if there is a mistake.
fn order(steps: &[Spanned<RawStep>], found: &mut Found) -> Option<Vec<usize>> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut whole = true;
    for (at, step) in steps.iter().enumerate() {
        let name = &step.get_ref().name;
        // Names that become the same one of Rust are the same.
        if let Some(other) = places.insert(camel(name.get_ref()), at) {
            let other = steps[other].get_ref().name.get_ref();
            let message = format!("the name \"{}\" is taken, by \"{other}\"", name.get_ref());
            found.add(name.span(), message, None);
            whole = false;
        }
    }
    let valid: Vec<&str> =
        steps.iter().map(|step| step.get_ref().name.get_ref().as_str()).collect();
    let mut needs: Vec<Vec<usize>> = Vec::new();
    for step in steps {
        let mut its = Vec::new();
        for on in &step.get_ref().after {
            match valid.iter().position(|name| name == on.get_ref()) {
                Some(at) => its.push(at),
                None => {
                    found.unknown("step", on, &valid);
                    whole = false;
                }
            }
        }
        needs.push(its);
    }
    if !whole {
        return None;
    }
    let (mut order, mut placed) = (Vec::new(), vec![false; steps.len()]);
    while order.len() < steps.len() {
        let ready = |at: &usize| !placed[*at] && needs[*at].iter().all(|on| placed[*on]);
        let Some(next) = (0..steps.len()).find(ready) else {
            circle(steps, &needs, &placed, found);
            return None;
        };
        placed[next] = true;
        order.push(next);
    }
    Some(order)
}

/// Names the steps of a circle among those that could not be placed.
fn circle(steps: &[Spanned<RawStep>], needs: &[Vec<usize>], placed: &[bool], found: &mut Found) {
    let mut path: Vec<usize> = placed.iter().position(|placed| !placed).into_iter().collect();
    while let Some(&last) = path.last() {
        // Each of them waits for one that is not placed either, so the path comes back to itself.
        let Some(&next) = needs[last].iter().find(|on| !placed[**on]) else { return };
        if let Some(begin) = path.iter().position(|at| *at == next) {
            let name = |at: &usize| steps[*at].get_ref().name.get_ref().as_str();
            let mut names: Vec<&str> = path[begin..].iter().map(name).collect();
            names.push(name(&next));
            let message = format!("these steps wait for each other: {}", names.join(" after "));
            let here = &steps[path[begin]].get_ref().after;
            let to = needs[path[begin]].iter().position(|on| !placed[*on]);
            let place = to.and_then(|to| here.get(to)).map_or(0..0, Spanned::span);
            found.add(place, message, Some("take one of these dependencies away".to_owned()));
            return;
        }
        path.push(next);
    }
}

/// The steps in this order; `None` if there is no order, or a mistake.
fn read_steps(
    raw: &[Spanned<RawStep>],
    order: Option<&[usize]>,
    found: &mut Found,
) -> Option<Vec<FileStep>> {
    let before = found.mistakes.len();
    let in_file: Vec<usize> = (0..raw.len()).collect();
    let names: Vec<&str> = raw.iter().map(|step| step.get_ref().name.get_ref().as_str()).collect();
    let kinds = StepKind::ALL.map(|kind| (kind.name(), kind));
    let values = ValueType::ALL.map(|value| (value.name(), value));
    let gives: Vec<Option<ValueType>> = raw
        .iter()
        .map(|step| found.word("type", step.get_ref().gives.as_ref()?, &values))
        .collect();
    let mut steps = Vec::new();
    for &at in order.unwrap_or(&in_file) {
        let step = raw[at].get_ref();
        let kind = step.kind.as_ref().map(|kind| (kind, found.word("kind of step", kind, &kinds)));
        match (&kind, &step.undo) {
            (None, None) => {
                let message = format!("step \"{}\" has no compensation", step.name.get_ref());
                let help = "say `undo = \"…\"`, or that it needs none: `kind = \"pivot\"`, \
                            \"retriable\" or \"read-only\"";
                found.add(step.name.span(), message, Some(help.to_owned()));
            }
            (Some((place, Some(StepKind::Compensatable))), None) => {
                let message = format!("step \"{}\" has no compensation", step.name.get_ref());
                found.add(place.span(), message, Some("say `undo = \"…\"`".to_owned()));
            }
            (Some((_, Some(kind))), Some(undo)) if !kind.has_undo() => {
                let message = format!("a {} step is never undone", kind.name());
                let help = "take `undo` away, or make the step compensatable";
                found.add(undo.span(), message, Some(help.to_owned()));
            }
            _ => {}
        }
        let name = found.name(&step.name);
        let action = step.action.as_ref().map_or(name.clone(), |action| found.label(action));
        let undo = step.undo.as_ref().and_then(|undo| found.label(undo));
        let timeout = found.duration(step.timeout.as_ref());
        // Where it stands among the steps, by where it stands in the file.
        let number = |at: usize| order?.iter().position(|placed| *placed == at);
        let mut takes = Vec::new();
        for from in &step.takes {
            let Some(at) = names.iter().position(|name| name == from.get_ref()) else {
                found.unknown("step", from, &names);
                continue;
            };
            match (gives[at], &raw[at].get_ref().gives, number(at)) {
                (Some(value), _, Some(number)) => takes.push((number as u32, value)),
                (None, None, _) => {
                    let message = format!("step \"{}\" gives nothing", from.get_ref());
                    let help = "say there what it gives: `gives = \"u64\"`";
                    found.add(from.span(), message, Some(help.to_owned()));
                }
                // What is wrong with it is said elsewhere.
                _ => {}
            }
        }
        let on = |on: &Spanned<String>| names.iter().position(|name| name == on.get_ref());
        let after = step.after.iter().filter_map(|after| number(on(after)?));
        let after = after.map(|number| number as u32).collect();
        let kind = kind.and_then(|(_, kind)| kind).unwrap_or_default();
        if let (Some(name), Some(action)) = (name, action) {
            let gives = gives[at];
            steps.push(FileStep { name, action, undo, kind, after, takes, gives, timeout });
        }
    }
    (order.is_some() && found.mistakes.len() == before).then_some(steps)
}

/// Where in the file the mistake stands that a definition was refused for.
fn place_of(error: &DefinitionError, raw: &Raw, order: &[usize]) -> Range<usize> {
    let step = |number: u32| raw.step[order[number as usize]].get_ref();
    let kind = |number: u32| {
        let step = step(number);
        step.kind.as_ref().map_or(step.name.span(), Spanned::span)
    };
    // One of the names in a list of the step's.
    let listed = |list: &[Spanned<String>], of: u32, step_of: u32, last: bool| {
        let name = step(of).name.get_ref();
        let mut places = list.iter().filter(|other| other.get_ref() == name);
        let place = if last { places.next_back() } else { places.next() };
        place.map_or(step(step_of).name.span(), Spanned::span)
    };
    match *error {
        DefinitionError::SecondPivot { second, .. } => kind(second),
        DefinitionError::BesidePivot { step: number, .. }
        | DefinitionError::TooManyDependencies { step: number, .. } => step(number).name.span(),
        DefinitionError::AheadOfPivot { step: number, .. }
        | DefinitionError::BehindPivot { step: number, .. }
        | DefinitionError::RetriableWithoutPivot { step: number } => kind(number),
        DefinitionError::DuplicateDependency { step: number, dependency } => {
            listed(&step(number).after, dependency, number, true)
        }
        DefinitionError::InputNotBefore { step: number, input }
        | DefinitionError::NoOutput { step: number, input }
        | DefinitionError::InputType { step: number, input, .. } => {
            listed(&step(number).takes, input, number, false)
        }
        DefinitionError::DuplicateInput { step: number, input } => {
            listed(&step(number).takes, input, number, true)
        }
        _ => raw.name.span(),
    }
}

/// What a definition was refused for, with the steps' names where it has their numbers.
fn in_names(error: &DefinitionError, file: &SagaFile) -> String {
    let name = |step: u32| format!("\"{}\"", file.steps[step as usize].name);
    match *error {
        DefinitionError::SecondPivot { first, second } => {
            format!("{} and {} are both pivots: a saga has at most one", name(first), name(second))
        }
        DefinitionError::BesidePivot { step, pivot } => {
            format!("{} stands neither before nor behind the pivot, {}", name(step), name(pivot))
        }
        DefinitionError::AheadOfPivot { step, pivot, kind } => format!(
            "{} is {}, and stands before the pivot, {}: it has to be compensatable or read-only",
            name(step),
            kind.name(),
            name(pivot)
        ),
        DefinitionError::BehindPivot { step, pivot, kind } => format!(
            "{} is {}, and stands behind the pivot, {}: it has to be retriable or read-only",
            name(step),
            kind.name(),
            name(pivot)
        ),
        DefinitionError::RetriableWithoutPivot { step } => {
            format!("{} is retriable, and no pivot stands before it", name(step))
        }
        DefinitionError::DuplicateDependency { step, dependency } => {
            format!("{} depends on {} twice", name(step), name(dependency))
        }
        DefinitionError::DuplicateInput { step, input } => {
            format!("{} takes the output of {} twice", name(step), name(input))
        }
        DefinitionError::InputNotBefore { step, input } => format!(
            "{} takes the output of {}, on which it does not depend",
            name(step),
            name(input)
        ),
        error => error.to_string(),
    }
}

/// The format of a file of another one, and where it says so.
fn other_format(text: &str) -> Option<(Range<usize>, u32)> {
    #[derive(Deserialize)]
    struct Header {
        format: Spanned<u32>,
    }
    // What is no such header is told by whoever reads the whole.
    let Header { format } = toml::from_str(text).ok()?;
    (*format.get_ref() != FORMAT).then(|| (format.span(), *format.get_ref()))
}

/// A whole number and a unit, at most a year.
fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(split);
    let unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let millis = number.parse::<u64>().ok().filter(|_| digits)?.checked_mul(unit)?;
    (1..=365 * 24 * 3_600_000).contains(&millis).then(|| Duration::from_millis(millis))
}

/// The valid word that is nearest to another, if any is near.
fn nearest<'a>(word: &str, valid: &[&'a str]) -> Option<&'a str> {
    let distance = |v: &&str| strsim::damerau_levenshtein(word, v);
    let best = valid.iter().min_by_key(|v| distance(v))?;
    (distance(best) <= word.len().max(3) / 2).then_some(*best)
}

/// A message without what a terminal would take for a command.
fn printable(message: &str) -> String {
    let mut printed = String::with_capacity(message.len());
    for c in message.chars() {
        if c.is_control() && c != '\n' {
            printed.extend(c.escape_debug());
        } else {
            printed.push(c);
        }
    }
    printed
}

/// The text as it is shown around a place: the same, byte for byte, but for control characters.
fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_control() && c != '\n' && c != '\t' { '?' } else { c };
    // Control characters of two bytes become two characters, so that places stay.
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        let bytes = if plain(c) == c { 1 } else { c.len_utf8() };
        (0..bytes).for_each(|_| shown.push(plain(c)));
        shown
    })
}
