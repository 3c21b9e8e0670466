//! The file: what it may say, and what is wrong with one that says something else.

use crate::generate::camel;
use crate::nested::Sagas;
use base::{NodeName, ShardId};
use miette::{Diagnostic, NamedSource, SourceSpan};
use saga::{
    Action, Branch, Builder, Definition, DefinitionError, Label, Limits, Step, StepKind, ValueType,
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
    /// Who does it.
    pub performer: FilePerformer,
    /// The participants of the transaction that undoes it; none: it is undone otherwise.
    pub undo_transaction: Vec<Label>,
    /// After so many transactions that were voted down it is refused.
    pub attempts: Option<u32>,
}

/// Who does a [`FileStep`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilePerformer {
    /// Its node, by its action.
    Node,
    /// A transaction of these participants.
    Transaction(Vec<Label>),
    /// A saga of this definition, which is in the same file.
    Saga(Arc<SagaFile>),
}

impl FileStep {
    /// Whether its node is called, to do it or to undo it.
    #[must_use]
    pub fn is_called(&self) -> bool {
        self.performer == FilePerformer::Node || self.undo.is_some()
    }

    /// Whether a transaction does or undoes it.
    #[must_use]
    pub fn has_transaction(&self) -> bool {
        matches!(self.performer, FilePerformer::Transaction(_)) || !self.undo_transaction.is_empty()
    }
}

/// Where the steps of a saga run and what they are asked: what a file does not say. Steps of sagas within
/// the saga are asked about like its own.
pub trait Places {
    /// Of a step that a call does or undoes: where, and what is asked.
    fn call(&mut self, saga: &SagaFile, step: &FileStep) -> (NodeName, Arc<[u8]>);

    /// A participant's part of the transaction that does the step, or undoes it.
    fn branch(
        &mut self,
        saga: &SagaFile,
        step: &FileStep,
        participant: &Label,
        undo: bool,
    ) -> Branch;
}

/// Calls alone.
struct Calls<F>(F);

impl<F: FnMut(&FileStep) -> (NodeName, Arc<[u8]>)> Places for Calls<F> {
    fn call(&mut self, _: &SagaFile, step: &FileStep) -> (NodeName, Arc<[u8]>) {
        self.0(step)
    }

    fn branch(&mut self, _: &SagaFile, step: &FileStep, _: &Label, _: bool) -> Branch {
        panic!("step \"{}\" has a transaction: say with `definition_with` of whom", step.name)
    }
}

/// Nowhere, and nothing is asked; each participant has a shard of its own.
struct Nowhere(u64);

impl Places for Nowhere {
    fn call(&mut self, _: &SagaFile, _: &FileStep) -> (NodeName, Arc<[u8]>) {
        (NodeName::default(), Arc::from([]))
    }

    fn branch(&mut self, _: &SagaFile, _: &FileStep, _: &Label, _: bool) -> Branch {
        self.0 += 1;
        let (shard, node) = (ShardId::numbered(self.0), NodeName::default());
        Branch { shard, node, work: Arc::from([]) }
    }
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
    #[serde(default)]
    saga: Vec<Spanned<RawSaga>>,
}

/// A saga of the same file, for steps to name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawSaga {
    pub name: Spanned<String>,
    pub version: Spanned<u32>,
    pub timeout: Option<Spanned<String>>,
    #[serde(default)]
    pub step: Vec<Spanned<RawStep>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawStep {
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
    transaction: Option<Spanned<Vec<Spanned<String>>>>,
    saga: Option<Spanned<String>>,
    #[serde(rename = "undo-transaction")]
    undo_transaction: Option<Spanned<Vec<Spanned<String>>>>,
    attempts: Option<u32>,
}

/// The mistakes of one file, as they are found.
pub(crate) struct Found {
    source: Arc<NamedSource<String>>,
    mistakes: Vec<Mistake>,
}

impl Found {
    pub fn add(&mut self, place: Range<usize>, message: String, help: Option<String>) {
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

    pub fn unknown(&mut self, what: &str, text: &Spanned<String>, valid: &[&str]) {
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
        let mut sagas = Sagas::new(&raw.saga, limits, &mut found);
        let Raw { name: called, version, timeout, step: steps, .. } = &raw;
        let head = Head { name: called, version, timeout: timeout.as_ref(), steps };
        let file = read_saga(&head, &mut sagas, &mut found);
        // What no step names has to be right as well.
        sagas.read_all(&mut found);
        found.end(name)?;
        Ok(file.expect("what is missing was found to be wrong"))
    }

    fn builder(&self, limits: Limits, places: &mut impl Places) -> Builder {
        let mut builder = Definition::builder();
        builder.limits(limits).name(self.name.clone(), self.version);
        if let Some(timeout) = self.timeout {
            builder.timeout(timeout);
        }
        for step in &self.steps {
            let branches = |places: &mut _, participants: &[Label], undo| -> Vec<Branch> {
                let branch = |participant| Places::branch(places, self, step, participant, undo);
                participants.iter().map(branch).collect()
            };
            let mut made = match &step.performer {
                FilePerformer::Node => {
                    let (node, body) = places.call(self, step);
                    Step::new(Action::Custom, node, body).named(step.action.clone())
                }
                FilePerformer::Transaction(participants) => {
                    Step::transaction(branches(places, participants, false))
                }
                FilePerformer::Saga(inner) => {
                    // It was built once on its own.
                    let inner = inner.builder(limits, places).build();
                    Step::saga(inner.expect("a saga within a file is checked when it is read"))
                }
            };
            if step.performer != FilePerformer::Node && step.undo.is_some() {
                let (node, body) = places.call(self, step);
                made = made.undone_at(node, body);
            }
            if !step.undo_transaction.is_empty() {
                let back = branches(places, &step.undo_transaction, true);
                made = made.undone_by_transaction(back);
            }
            made = made.kind(step.kind);
            if let Some(attempts) = step.attempts {
                made = made.attempts(attempts);
            }
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

    /// A saga of it, with `place` saying where each step runs and what it is asked, those of sagas within it
    /// too.
    ///
    /// # Panics
    /// If a step is done or undone by a transaction, of whose participants nothing is said here: for those
    /// there is [`definition_with`](Self::definition_with).
    #[must_use]
    pub fn definition(&self, place: impl FnMut(&FileStep) -> (NodeName, Arc<[u8]>)) -> Definition {
        self.definition_with(&mut Calls(place))
    }

    /// A saga of it that runs nowhere and asks nothing, by whose fingerprint one file is told from another.
    #[must_use]
    pub fn bare(&self) -> Definition {
        self.definition_with(&mut Nowhere(0))
    }

    /// A saga of it, with `places` saying where each step runs and what it is asked.
    ///
    /// # Panics
    /// If two participants of one transaction are given the same shard. Else never, for a file that
    /// [`SagaFile::parse`] made: it was built once then.
    #[must_use]
    pub fn definition_with(&self, places: &mut impl Places) -> Definition {
        let most = u32::MAX;
        let limits = Limits { steps_max: most, dependencies_max: most, depth_max: most };
        let builder = self.builder(limits, places);
        builder.build().expect("a file is checked when it is read")
    }
}

/// What stands at the head of a saga in a file, and its steps.
pub(crate) struct Head<'a> {
    pub name: &'a Spanned<String>,
    pub version: &'a Spanned<u32>,
    pub timeout: Option<&'a Spanned<String>>,
    pub steps: &'a [Spanned<RawStep>],
}

/// Reads one saga; `None` if there is a mistake in it, or in one that it holds.
pub(crate) fn read_saga(
    head: &Head<'_>,
    sagas: &mut Sagas<'_>,
    found: &mut Found,
) -> Option<SagaFile> {
    let before = found.mistakes.len();
    let name = found.name(head.name);
    if *head.version.get_ref() == 0 {
        found.add(head.version.span(), "versions count from 1".to_owned(), None);
    }
    let timeout = found.duration(head.timeout);
    if head.steps.is_empty() {
        found.add(head.name.span(), "a saga needs at least one step".to_owned(), None);
    }
    let order = order(head.steps, found);
    let steps = read_steps(head.steps, order.as_deref(), sagas, found);
    let (name, steps, order) = (name?, steps?, order?);
    if found.mistakes.len() > before {
        return None;
    }
    let file = SagaFile { name, version: *head.version.get_ref(), timeout, steps };
    if let Err(error) = file.builder(sagas.limits, &mut Nowhere(0)).build() {
        found.add(place_of(&error, head, &order), in_names(&error, &file), None);
        return None;
    }
    Some(file)
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
    sagas: &mut Sagas<'_>,
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
        // A sub-saga has compensations of its own.
        let otherwise = step.undo_transaction.is_some() || step.saga.is_some();
        match (&kind, &step.undo) {
            (None | Some((_, Some(StepKind::Compensatable))), None) if otherwise => {}
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
        if let (Some((_, Some(kind))), Some(undo)) = (&kind, &step.undo_transaction)
            && !kind.has_undo()
        {
            let message = format!("a {} step is never undone", kind.name());
            let help = "take `undo-transaction` away, or make the step compensatable";
            found.add(undo.span(), message, Some(help.to_owned()));
        }
        if let (Some(_), Some(undo)) = (&step.undo, &step.undo_transaction) {
            let help = "take `undo` or `undo-transaction` away";
            found.add(undo.span(), "it is undone twice".to_owned(), Some(help.to_owned()));
        }
        let performer = read_performer(step, sagas, found);
        let undo_transaction = participants(step.undo_transaction.as_ref(), found);
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
            steps.push(FileStep {
                name,
                action,
                undo,
                kind,
                after,
                takes,
                gives,
                timeout,
                performer,
                undo_transaction,
                attempts: step.attempts,
            });
        }
    }
    (order.is_some() && found.mistakes.len() == before).then_some(steps)
}

fn read_performer(step: &RawStep, sagas: &mut Sagas<'_>, found: &mut Found) -> FilePerformer {
    let help = "a step is done by its action, by a transaction, or by a saga";
    let other = step.saga.as_ref().map(Spanned::span).or(step.action.as_ref().map(Spanned::span));
    if let (Some(_), Some(place)) = (&step.transaction, &other) {
        found.add(place.clone(), "it is done twice".to_owned(), Some(help.to_owned()));
    } else if let (Some(_), Some(action)) = (&step.saga, &step.action) {
        found.add(action.span(), "it is done twice".to_owned(), Some(help.to_owned()));
    }
    match (&step.transaction, &step.saga) {
        (Some(list), _) => FilePerformer::Transaction(participants(Some(list), found)),
        (None, Some(name)) => {
            sagas.named(name, found).map_or(FilePerformer::Node, FilePerformer::Saga)
        }
        (None, None) => FilePerformer::Node,
    }
}

/// Who takes part in a transaction, each once.
fn participants(list: Option<&Spanned<Vec<Spanned<String>>>>, found: &mut Found) -> Vec<Label> {
    let Some(list) = list else { return Vec::new() };
    if list.get_ref().is_empty() {
        found.add(list.span(), "a transaction without participants".to_owned(), None);
    }
    let mut labels: Vec<Label> = Vec::new();
    for name in list.get_ref() {
        let Some(label) = found.label(name) else { continue };
        if labels.contains(&label) {
            found.add(name.span(), format!("\"{label}\" takes part twice"), None);
        } else {
            labels.push(label);
        }
    }
    labels
}

/// Where in the file the mistake stands that a definition was refused for.
fn place_of(error: &DefinitionError, head: &Head<'_>, order: &[usize]) -> Range<usize> {
    let step = |number: u32| head.steps[order[number as usize]].get_ref();
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
        DefinitionError::ReadOnlyOperation { step: number } => kind(number),
        DefinitionError::Irreversible { step: number, .. } => {
            step(number).saga.as_ref().map_or(step(number).name.span(), Spanned::span)
        }
        DefinitionError::UndoneOtherwise { step: number } => {
            let undo = &step(number).undo_transaction;
            undo.as_ref().map_or(step(number).name.span(), Spanned::span)
        }
        DefinitionError::OperationOutput { step: number, .. } => {
            step(number).gives.as_ref().map_or(step(number).name.span(), Spanned::span)
        }
        DefinitionError::OperationTakesInput { step: number }
        | DefinitionError::NoUndo { step: number } => step(number).name.span(),
        _ => head.name.span(),
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
        DefinitionError::ReadOnlyOperation { step } => {
            format!("{} is a transaction or a saga, and cannot be read-only", name(step))
        }
        DefinitionError::OperationTakesInput { step } => {
            format!("{} is a transaction or a saga, and takes no outputs", name(step))
        }
        DefinitionError::UndoneOtherwise { step } => {
            format!("{} is done by a call, and a call is undone by a call", name(step))
        }
        DefinitionError::OperationOutput { step, expected, found } => format!(
            "{} gives {}, and what does it gives {}",
            name(step),
            expected.name(),
            found.map_or("nothing", ValueType::name)
        ),
        DefinitionError::Irreversible { step, inner } => {
            let inner = match &file.steps[step as usize].performer {
                FilePerformer::Saga(saga) => saga.steps[inner as usize].name.to_string(),
                _ => inner.to_string(),
            };
            format!(
                "{} is undone by its own compensations, and \"{inner}\" has none: name an undo",
                name(step)
            )
        }
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
