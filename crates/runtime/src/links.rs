use crate::network::{Letter, Network};
use base::NodeName;
use coordinator::wire;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// A process's connections to the nodes of others, over TCP.
///
/// Each process listens, and dials those that it has something for; what travels over a connection goes
/// one way. It begins with 8 bytes, `TRINITY` and the version of what follows, 1. Then come frames: a u32
/// length, the CRC-32C of what follows, who it is for and from (32 bytes each), and the message as
/// [`coordinator::wire`] has it. A length of 0 is a sign of life, sent after [`Links::SIGN_AFTER`] without
/// anything else. Numbers are little-endian.
///
/// Guaranteed: what arrives is what was sent, as far as a CRC can tell; a frame that is damaged, too long
/// (over [`Links::FRAME_BYTES_MAX`]), unreadable or not finished in time closes its connection, and harms
/// nobody else; a peer that cannot be reached is dialled again after 50 ms, and with growing patience up to
/// [`Links::REDIAL_MAX`]. At most [`Links::WAITING_MAX`] messages wait for a peer; beyond that new ones are
/// lost, as the network may lose any: what is owed is sent again.
///
/// Not guaranteed: **who** is on the other side. Whoever can connect can speak as any node. Listen on
/// loopback or in a private network, or lead the connections through a tunnel that authenticates.
///
/// ```
/// use base::NodeName;
/// use runtime::{Links, Network};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// // In this process: what runs in it joins this network. Port 0 is any that is free.
/// let here = Network::default();
/// let links = Links::open(&here, "127.0.0.1:0".parse().expect("an address")).await?;
/// // Where the others are; their processes say the same of us.
/// links.reach(NodeName::numbered(2), "127.0.0.1:7002".parse().expect("an address"));
/// println!("reached at {}", links.address());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Links {
    address: SocketAddr,
    network: Network,
    counters: Arc<Counters>,
    listening: JoinHandle<()>,
    dialling: std::sync::Mutex<BTreeMap<SocketAddr, Dialled>>,
}

/// The way to one address.
#[derive(Debug)]
struct Dialled {
    link: mpsc::Sender<Letter>,
    task: JoinHandle<()>,
}

/// What has passed over a process's [`Links`] since they were opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkStats {
    /// Connections that were made to others.
    pub dialled: u64,
    /// Connections that others made and that began as they have to.
    pub accepted: u64,
    /// Connections that were closed because of what came over them, or did not come.
    pub refused: u64,
    /// Messages that were given to a connection. Whether they arrived is not known.
    pub sent: u64,
    /// Messages that came for a node of this process.
    pub received: u64,
    /// Messages that came for a node that is not here.
    pub strayed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    dialled: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    strayed: AtomicU64,
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

const PREFACE: [u8; 8] = *b"TRINITY\x01";
/// A length and a checksum.
const FRAME_HEAD_BYTES: usize = 8;
/// For whom, and from whom.
const NAMES_BYTES: usize = 64;
/// What waits is written together, up to so much.
const WRITE_BYTES: usize = 64 << 10;
const REDIAL_MIN: Duration = Duration::from_millis(50);
const DIAL_FOR: Duration = Duration::from_secs(5);

impl Links {
    /// The longest frame, in bytes: 16 MiB.
    pub const FRAME_BYTES_MAX: u32 = 16 << 20;
    /// So many messages wait for a peer at most.
    pub const WAITING_MAX: usize = 4_096;
    /// So many connections of others are kept at most.
    pub const ACCEPTED_MAX: usize = 1_024;
    /// The longest pause between two attempts to reach a peer.
    pub const REDIAL_MAX: Duration = Duration::from_secs(5);
    /// After so long without a message a sign of life is sent.
    pub const SIGN_AFTER: Duration = Duration::from_secs(5);
    /// A connection over which nothing came for so long, or no whole frame once one had begun, is closed.
    pub const SILENCE_MAX: Duration = Duration::from_secs(20);

    /// Listens on this address for what others send to nodes of this network.
    ///
    /// Has to be called within a tokio runtime with I/O and time, whose tasks the connections are.
    ///
    /// # Errors
    /// The system's: the address is in use, or not one of this machine's.
    pub async fn open(network: &Network, listen: SocketAddr) -> io::Result<Links> {
        let listener = TcpListener::bind(listen).await?;
        let (address, counters) = (listener.local_addr()?, Arc::<Counters>::default());
        let listening = accept(listener, network.clone(), counters.clone());
        Ok(Links {
            address,
            network: network.clone(),
            counters,
            listening: tokio::spawn(listening),
            dialling: Default::default(),
        })
    }

    /// Where others reach the nodes of this process.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says where a node of another process is, or that it is somewhere else now. Nodes at one address share a
    /// connection. Has to be called within a tokio runtime, as [`open`](Self::open).
    pub fn reach(&self, node: NodeName, address: SocketAddr) {
        // A map of senders is never half changed, whoever panicked here.
        let lock = self.dialling.lock();
        let mut dialling = lock.unwrap_or_else(std::sync::PoisonError::into_inner);
        let dialled = dialling.entry(address).or_insert_with(|| {
            let (link, letters) = mpsc::channel(Self::WAITING_MAX);
            let task = tokio::spawn(dial(address, letters, self.counters.clone()));
            Dialled { link, task }
        });
        self.network.lead(node, dialled.link.clone());
    }

    /// What has passed since they were opened.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        let Counters { dialled, accepted, refused, sent, received, strayed } = &*self.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LinkStats {
            dialled: read(dialled),
            accepted: read(accepted),
            refused: read(refused),
            sent: read(sent),
            received: read(received),
            strayed: read(strayed),
        }
    }
}

impl Drop for Links {
    /// Closes every connection, as a crash would: what is on its way may be lost.
    fn drop(&mut self) {
        self.listening.abort();
        let dialling = self.dialling.get_mut();
        let dialling = dialling.unwrap_or_else(std::sync::PoisonError::into_inner);
        for dialled in dialling.values() {
            dialled.task.abort();
        }
    }
}

// ---- what comes in ----

async fn accept(listener: TcpListener, network: Network, counters: Arc<Counters>) {
    let room = Arc::new(Semaphore::new(Links::ACCEPTED_MAX));
    // They end with this task.
    let mut readers = tokio::task::JoinSet::new();
    loop {
        while readers.try_join_next().is_some() {}
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Such as too many open files: it may be better soon.
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                sleep(REDIAL_MIN).await;
                continue;
            }
        };
        let Ok(place) = room.clone().try_acquire_owned() else {
            tracing::warn!(%peer, "a connection too many");
            count(&counters.refused, 1);
            continue;
        };
        let (network, counters) = (network.clone(), counters.clone());
        readers.spawn(async move {
            let _place = place;
            if let Err(error) = receive(stream, &network, &counters).await {
                tracing::warn!(%peer, %error, "a connection was closed");
                count(&counters.refused, 1);
            }
        });
    }
}

/// Takes frames until the peer closes the connection between two of them.
///
/// # Errors
/// What came is no frame, or did not come.
async fn receive(stream: TcpStream, network: &Network, counters: &Counters) -> io::Result<()> {
    let mut stream = tokio::io::BufReader::new(stream);
    let mut preface = [0; PREFACE.len()];
    in_time(stream.read_exact(&mut preface)).await?;
    if preface != PREFACE {
        return Err(bad("it does not begin as a node of this version does"));
    }
    count(&counters.accepted, 1);
    let mut body = Vec::new();
    while next_frame(&mut stream, &mut body).await? {
        if body.is_empty() {
            continue;
        }
        let letter = read_letter(&body)?;
        let counter = if network.deliver(letter) { &counters.received } else { &counters.strayed };
        count(counter, 1);
    }
    Ok(())
}

/// Reads a frame's body, empty for a sign of life. Whether there was one.
///
/// # Errors
/// It is cut, damaged or too long, or nothing came for too long.
async fn next_frame(stream: &mut (impl AsyncRead + Unpin), body: &mut Vec<u8>) -> io::Result<bool> {
    let mut head = [0; FRAME_HEAD_BYTES];
    if in_time(stream.read(&mut head[..1])).await? == 0 {
        return Ok(false);
    }
    in_time(stream.read_exact(&mut head[1..])).await?;
    let [a, b, c, d, crc @ ..] = head;
    let (len, crc) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(crc));
    if len > Links::FRAME_BYTES_MAX {
        return Err(bad("a frame is too long"));
    }
    body.clear();
    // The buffer grows with what arrives, not with what is announced.
    let read = in_time(stream.take(u64::from(len)).read_to_end(body)).await?;
    if read as u64 != u64::from(len) {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    if crc32c::crc32c(body) != crc {
        return Err(bad("a frame's checksum does not match"));
    }
    Ok(true)
}

fn read_letter(body: &[u8]) -> io::Result<Letter> {
    let split = body.split_first_chunk::<NAMES_BYTES>();
    let (names, message) = split.ok_or_else(|| bad("a frame has no names"))?;
    let name = |at: usize| NodeName(std::array::from_fn(|byte| names[at + byte]));
    let message =
        wire::decode(message).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    Ok(Letter { to: name(0), from: name(32), message })
}

async fn in_time<T>(read: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(Links::SILENCE_MAX, read).await.map_err(|_| ErrorKind::TimedOut)?
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

// ---- what goes out ----

/// Carries letters to an address for as long as somebody may write one.
async fn dial(address: SocketAddr, mut letters: mpsc::Receiver<Letter>, counters: Arc<Counters>) {
    let mut pause = REDIAL_MIN;
    // Nobody is dialled before there is something to say.
    while let Some(first) = letters.recv().await {
        let connected = timeout(DIAL_FOR, TcpStream::connect(address)).await;
        let stream = match connected.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%address, %error, "a peer cannot be reached");
                // What was meant for it meanwhile is stale by the time it can be.
                sleep(pause).await;
                pause = (2 * pause).min(Links::REDIAL_MAX);
                while letters.try_recv().is_ok() {}
                continue;
            }
        };
        pause = REDIAL_MIN;
        count(&counters.dialled, 1);
        if let Err(error) = transmit(stream, first, &mut letters, &counters).await {
            tracing::debug!(%address, %error, "a connection was lost");
            sleep(REDIAL_MIN).await;
        }
    }
}

/// # Errors
/// The connection is lost, or the peer has closed it.
async fn transmit(
    mut stream: TcpStream,
    first: Letter,
    letters: &mut mpsc::Receiver<Letter>,
    counters: &Counters,
) -> io::Result<()> {
    // A vote does not wait for company.
    stream.set_nodelay(true)?;
    let (mut answers, mut stream) = stream.split();
    let mut bytes = PREFACE.to_vec();
    let mut next = Some(first);
    loop {
        let mut written = 0;
        while let Some(letter) = next {
            written += u64::from(frame(&letter, &mut bytes));
            next = if bytes.len() < WRITE_BYTES { letters.try_recv().ok() } else { None };
        }
        stream.write_all(&bytes).await?;
        count(&counters.sent, written);
        bytes.clear();
        // The other side never writes: what can be read is that it is gone.
        next = tokio::select! {
            letter = letters.recv() => match letter {
                Some(letter) => Some(letter),
                None => return Ok(()),
            },
            ended = answers.read_u8() => {
                return Err(ended.err().unwrap_or_else(|| bad("the peer has written")));
            }
            () = sleep(Links::SIGN_AFTER) => {
                bytes.resize(FRAME_HEAD_BYTES, 0);
                None
            }
        };
    }
}

/// Appends a letter's frame. One that is too long is left out, whoever receives it would refuse it.
fn frame(letter: &Letter, out: &mut Vec<u8>) -> bool {
    let at = out.len();
    out.resize(at + FRAME_HEAD_BYTES, 0);
    out.extend_from_slice(&letter.to.0);
    out.extend_from_slice(&letter.from.0);
    wire::encode(&letter.message, out);
    let body = &out[at + FRAME_HEAD_BYTES..];
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    if len > Links::FRAME_BYTES_MAX {
        tracing::error!(to = %letter.to, bytes = len, "a message is too long to be sent");
        out.truncate(at);
        return false;
    }
    let crc = crc32c::crc32c(body);
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
    out[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{BootCount, StoreId};
    use node::Message;
    use tokio::io::duplex;

    fn letter() -> Letter {
        let message = Message::Announce { store: StoreId(3), boot: BootCount(4) };
        Letter { from: NodeName::numbered(1), to: NodeName::numbered(2), message }
    }

    fn framed(letter: &Letter) -> Vec<u8> {
        let mut bytes = Vec::new();
        assert!(frame(letter, &mut bytes));
        bytes
    }

    #[tokio::test]
    async fn a_frame_is_read_as_it_was_written() {
        let bytes = [framed(&letter()), vec![0; FRAME_HEAD_BYTES]].concat();
        let (mut stream, mut body) = (&bytes[..], Vec::new());
        assert!(next_frame(&mut stream, &mut body).await.expect("a frame"));
        let read = read_letter(&body).expect("a letter");
        let (sent, read) = (letter(), (read.from, read.to, read.message));
        assert_eq!(read, (sent.from, sent.to, sent.message));
        assert!(next_frame(&mut stream, &mut body).await.expect("a sign of life"));
        assert!(body.is_empty());
        assert!(!next_frame(&mut stream, &mut body).await.expect("the end"));
    }

    #[tokio::test]
    async fn no_part_of_a_frame_is_one_and_no_bit_of_it_may_flip() {
        let bytes = framed(&letter());
        for cut in 1..bytes.len() {
            let mut body = Vec::new();
            let error = next_frame(&mut &bytes[..cut], &mut body).await.expect_err("a part");
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "cut at {cut}");
        }
        for bit in 0..8 * bytes.len() {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(next_frame(&mut &bytes[..], &mut Vec::new()).await.is_err(), "bit {bit}");
        }
    }

    #[tokio::test]
    async fn a_length_that_is_announced_takes_no_room() {
        let mut body = Vec::new();
        let long = (Links::FRAME_BYTES_MAX + 1).to_le_bytes();
        let error = next_frame(&mut &[&long[..], &[0; 4]].concat()[..], &mut body).await;
        assert_eq!(error.expect_err("too long").kind(), ErrorKind::InvalidData);
        let most = Links::FRAME_BYTES_MAX.to_le_bytes();
        let error = next_frame(&mut &[&most[..], &[0; 99]].concat()[..], &mut body).await;
        assert_eq!(error.expect_err("cut").kind(), ErrorKind::UnexpectedEof);
        assert!(body.capacity() < 1 << 16, "{}", body.capacity());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_connection_and_a_sign_of_life_does_not() {
        let (mut near, mut far) = duplex(64);
        let mut body = Vec::new();
        for _ in 0..9 {
            sleep(Links::SIGN_AFTER).await;
            near.write_all(&[0; FRAME_HEAD_BYTES]).await.expect("there is room");
            assert!(next_frame(&mut far, &mut body).await.expect("a sign of life"));
        }
        // A frame that begins and does not go on is silence too.
        near.write_all(&[9, 0]).await.expect("there is room");
        let error = next_frame(&mut far, &mut body).await.expect_err("nothing more came");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn a_message_that_nobody_would_take_is_not_sent() {
        let prepare = |bytes: usize| {
            let key = twopc::TxKey { coordinator: Default::default(), id: base::OperationId(1) };
            let (epoch, shard) = (base::Epoch::new(1), base::ShardId::numbered(1));
            let (peers, work) = ([].into(), vec![0; bytes].into());
            let message =
                twopc::Message::Prepare { key, epoch, shard, peers, work, one_phase: false };
            Letter { message: Message::Transaction(message), ..letter() }
        };
        let mut bytes = vec![1, 2, 3];
        assert!(!frame(&prepare(Links::FRAME_BYTES_MAX as usize), &mut bytes));
        assert_eq!(bytes, [1, 2, 3]);
        assert!(frame(&prepare(1_000), &mut bytes));
    }
}
