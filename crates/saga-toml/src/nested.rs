//! The sagas of a file that are steps of others.

use crate::file::{Found, Head, RawSaga, SagaFile, read_saga};
use saga::Limits;
use std::collections::BTreeMap;
use std::sync::Arc;
use toml::Spanned;

/// The sagas that steps may name, each read when it is named first.
pub(crate) struct Sagas<'a> {
    raw: &'a [Spanned<RawSaga>],
    /// Those that were read, by their place in the file; without a value if something is wrong there.
    read: BTreeMap<usize, Option<Arc<SagaFile>>>,
    /// Those that are being read, each within the one before.
    path: Vec<usize>,
    pub limits: Limits,
}

impl<'a> Sagas<'a> {
    pub fn new(raw: &'a [Spanned<RawSaga>], limits: Limits, found: &mut Found) -> Sagas<'a> {
        for (at, saga) in raw.iter().enumerate() {
            let name = &saga.get_ref().name;
            let same = |other: &Spanned<RawSaga>| other.get_ref().name.get_ref() == name.get_ref();
            if raw[..at].iter().any(same) {
                let message = format!("the name \"{}\" is taken", name.get_ref());
                found.add(name.span(), message, None);
            }
        }
        Sagas { raw, read: BTreeMap::new(), path: Vec::new(), limits }
    }

    /// The saga of this name; `None` if there is a mistake, in it or in what it holds.
    pub fn named(&mut self, name: &Spanned<String>, found: &mut Found) -> Option<Arc<SagaFile>> {
        let names = || self.raw.iter().map(|saga| saga.get_ref().name.get_ref().as_str());
        let Some(at) = names().position(|other| other == name.get_ref()) else {
            let valid: Vec<&str> = names().collect();
            found.unknown("saga", name, &valid);
            return None;
        };
        if let Some(begin) = self.path.iter().position(|held| *held == at) {
            let circle = self.path[begin..].iter().chain([&at]);
            let circle: Vec<&str> =
                circle.map(|at| self.raw[*at].get_ref().name.get_ref().as_str()).collect();
            let message = format!("these sagas hold each other: {}", circle.join(" holds "));
            found.add(name.span(), message, Some("take one of them out".to_owned()));
            return None;
        }
        self.at(at, found)
    }

    /// Reads those that no step has named.
    pub fn read_all(&mut self, found: &mut Found) {
        for at in 0..self.raw.len() {
            self.at(at, found);
        }
    }

    fn at(&mut self, at: usize, found: &mut Found) -> Option<Arc<SagaFile>> {
        if let Some(known) = self.read.get(&at) {
            return known.clone();
        }
        let RawSaga { name, version, timeout, step } = self.raw[at].get_ref();
        let head = Head { name, version, timeout: timeout.as_ref(), steps: step };
        self.path.push(at);
        let read = read_saga(&head, self, found).map(Arc::new);
        self.path.pop();
        self.read.insert(at, read.clone());
        read
    }
}
