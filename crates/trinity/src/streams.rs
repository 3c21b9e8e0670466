//! A directory of streams: each is a log of its own, and they are read side by side.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use wal_core::{StreamFault, StreamFiles, StreamId, Streams};

use crate::error::Error;
use crate::source::Source;

/// The streams of a directory, to be read. Its lock is held, shared, as long as this lives.
pub struct StreamSources {
    streams: Streams,
    each: Vec<(StreamId, Source)>,
}

impl StreamSources {
    /// The streams that a path names; `None` if it names something else.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::InUse`].
    pub fn open(path: &Path) -> Result<Option<StreamSources>, Error> {
        if !path.is_dir() {
            return Ok(None);
        }
        let of = |error| Error::file(path, error);
        let Some(streams) = StreamFiles::count(path).map_err(of)? else { return Ok(None) };
        let files = StreamFiles::read(path).map_err(|error| Error::streams(path, error))?;
        let each = files.into_storages().into_iter().map(|(stream, storage)| {
            let folder = path.join(streams.folder_name(stream));
            (stream, Source::of_stream(folder, storage))
        });
        Ok(Some(StreamSources { streams, each: each.collect() }))
    }

    /// Does something with each, on as many threads as there are processors, and gives what came of it, in
    /// order.
    ///
    /// # Errors
    /// The first stream's.
    pub fn each<R: Send>(
        &mut self,
        act: impl Fn(&mut Source) -> Result<R, Error> + Sync,
    ) -> Result<Vec<R>, Error> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = self.each.len().div_ceil(threads);
        let act = &act;
        std::thread::scope(|scope| {
            let parts = self.each.chunks_mut(share).map(|part| {
                scope.spawn(move || part.iter_mut().map(|(_, source)| act(source)).collect())
            });
            let parts: Vec<_> = parts.collect();
            let mut all = Vec::new();
            for part in parts {
                let part: Result<Vec<R>, Error> = match part.join() {
                    Ok(part) => part,
                    Err(panic) => std::panic::resume_unwind(panic),
                };
                all.extend(part?);
            }
            Ok(all)
        })
    }

    /// How many there are to be.
    pub fn streams(&self) -> Streams {
        self.streams
    }

    /// Each of them.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.each.iter().map(|(_, source)| source)
    }

    /// What to print above what is said of each.
    pub fn headings(&self) -> impl Iterator<Item = String> {
        self.each.iter().map(|(stream, _)| format!("stream {stream} of {}", self.streams.count()))
    }

    /// What is said of each, with its name.
    pub fn named<T>(&self, each: impl IntoIterator<Item = T>) -> Vec<Named<T>> {
        let names = self.each.iter().map(|(stream, _)| *stream);
        let named = names.zip(each).map(|(stream, said)| {
            let folder = self.streams.folder_name(stream);
            Named { stream: stream.0, folder, said }
        });
        named.collect()
    }
}

/// What is said of one stream.
#[derive(Serialize)]
pub struct Named<T> {
    stream: u16,
    folder: String,
    #[serde(flatten)]
    said: T,
}

/// A stream that does not go with the others.
#[derive(Serialize)]
pub struct Faulty {
    stream: u16,
    what: String,
}

impl Faulty {
    pub fn of(faults: &[StreamFault]) -> Vec<Faulty> {
        let of = |fault: &StreamFault| Faulty { stream: fault.stream().0, what: fault.to_string() };
        faults.iter().map(of).collect()
    }
}

/// Lists what is wrong between the streams.
pub fn print_faults(to: &mut dyn Write, faults: &[StreamFault]) -> io::Result<()> {
    for fault in faults {
        writeln!(to, "{fault}; every operation that lives in it is in doubt")?;
    }
    Ok(())
}
