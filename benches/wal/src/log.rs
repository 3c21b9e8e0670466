//! What is measured: the faces that every log here shows to the workloads.

use std::error::Error;

/// What went wrong in a log, for people.
pub type Trouble = Box<dyn Error + Send + Sync>;

/// A record's payload, in bytes.
pub const PAYLOAD: usize = 100;

/// A record. Its first eight bytes are a number that counts up from 1 for each caller.
pub type Payload = [u8; PAYLOAD];

/// The caller's `number`-th record. What follows the number is noise, the same in each: nothing here
/// compresses, and no log reads it.
pub fn payload(number: u64) -> Payload {
    let mut payload = [0; PAYLOAD];
    let mut noise = 0x9E37_79B9_7F4A_7C15_u64;
    for byte in &mut payload[8..] {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (noise >> 56) as u8;
    }
    payload[..8].copy_from_slice(&number.to_le_bytes());
    payload
}

/// The number of a record.
pub fn number(payload: &[u8]) -> u64 {
    payload.first_chunk().map_or(0, |number| u64::from_le_bytes(*number))
}

/// A log to which many threads append, each waiting for its own record.
pub trait Log: Send + Sync {
    /// Returns when the record survives power loss. Callers count from 0.
    fn append(&self, caller: usize, payload: &Payload) -> Result<(), Trouble>;

    /// How often it has synced so far, if it can tell.
    fn syncs(&self) -> Option<u64> {
        None
    }

    /// Ends it. What it answers for is known to be on the disk already.
    fn close(self: Box<Self>) -> Result<(), Trouble> {
        Ok(())
    }
}

/// A log into which one thread puts the records of many, and hears of each when it is durable.
pub trait Multiplexed {
    /// Hands a record in, without waiting for it.
    fn submit(&mut self, token: usize, payload: &Payload) -> Result<(), Trouble>;

    /// Waits until something that was submitted is durable, and names it.
    fn completed(&mut self, tokens: &mut Vec<usize>) -> Result<(), Trouble>;
}

/// Told of a record once: durable, or what went wrong.
pub type Done = Box<dyn FnOnce(Result<(), String>) + Send>;

/// Any log that takes a closure with each record.
pub struct Closures<S> {
    submit: S,
    sender: std::sync::mpsc::Sender<(usize, Result<(), String>)>,
    receiver: std::sync::mpsc::Receiver<(usize, Result<(), String>)>,
}

impl<S: FnMut(&Payload, Done) -> Result<(), Trouble>> Closures<S> {
    pub fn new(submit: S) -> Closures<S> {
        let (sender, receiver) = std::sync::mpsc::channel();
        Closures { submit, sender, receiver }
    }
}

impl<S: FnMut(&Payload, Done) -> Result<(), Trouble>> Multiplexed for Closures<S> {
    fn submit(&mut self, token: usize, payload: &Payload) -> Result<(), Trouble> {
        let sender = self.sender.clone();
        // A receiver that is gone asks for nothing any more.
        (self.submit)(payload, Box::new(move |result| drop(sender.send((token, result)))))
    }

    fn completed(&mut self, tokens: &mut Vec<usize>) -> Result<(), Trouble> {
        let mut next = Some(self.receiver.recv()?);
        while let Some((token, result)) = next {
            result?;
            tokens.push(token);
            next = self.receiver.try_recv().ok();
        }
        Ok(())
    }
}

/// A log that one thread fills without waiting for the disk.
pub trait Buffered {
    /// Appends a record; a later one, or [`finish`](Buffered::finish), may write it.
    fn append(&mut self, payload: &Payload) -> Result<(), Trouble>;

    /// Writes what is buffered, and ends.
    fn finish(self: Box<Self>) -> Result<(), Trouble>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_tells_its_number_and_the_rest_is_the_same() {
        assert_eq!(number(&payload(u64::MAX - 1)), u64::MAX - 1);
        assert_eq!(payload(1)[8..], payload(2)[8..]);
        assert_ne!(payload(1)[8..16], payload(1)[16..24]);
    }

    #[test]
    fn a_closure_names_its_record_and_passes_failure_on() {
        let mut held: Vec<Done> = Vec::new();
        let mut log = Closures::new(|_: &Payload, done| {
            held.push(done);
            if held.len() == 2 {
                held.drain(..).rev().for_each(|done| done(Ok(())));
            } else if held.len() == 1 && number(&payload(0)) == 1 {
                return Err("never".into());
            }
            Ok(())
        });
        let mut tokens = Vec::new();
        log.submit(4, &payload(1)).unwrap();
        log.submit(9, &payload(1)).unwrap();
        log.completed(&mut tokens).unwrap();
        assert_eq!(tokens, [9, 4]);

        let mut failing = Closures::new(|_: &Payload, done: Done| {
            done(Err("full".into()));
            Ok(())
        });
        failing.submit(0, &payload(1)).unwrap();
        assert_eq!(failing.completed(&mut tokens).unwrap_err().to_string(), "full");
    }
}
