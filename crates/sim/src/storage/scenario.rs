//! Files of worlds of storage nodes.

use super::plan::{self, Entry};
use crate::scenario::{Between, Disk, Network, Repeats, Share, Span};
use serde::Deserialize;
use std::time::Duration;

/// A world of storage nodes: the file has a table `[storage]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The format's version, 1.
    pub format: u32,
    /// Its name.
    pub name: String,
    /// What it shows.
    #[serde(default)]
    pub about: String,
    /// The derivation of randomness that its seed was found with.
    #[serde(default)]
    pub derivation: Option<u32>,
    /// The seed that it runs with if none is given.
    #[serde(default = "one")]
    pub seed: u64,
    /// The network.
    #[serde(default)]
    pub network: Network,
    /// The disks of logs.
    #[serde(default)]
    pub disk: Disk,
    /// Nodes, files, and what else clients want.
    pub storage: Storage,
    /// What goes wrong.
    #[serde(default)]
    pub faults: Faults,
    /// Of all faults and clients that are drawn, only these, such as `["power-loss 3", "client 1"]`. What is not
    /// drawn by number is not concerned: a region that is cut off, say.
    #[serde(default)]
    pub only: Option<Vec<Entry>>,
    /// What has to come out.
    #[serde(default)]
    pub expect: Expected,
    /// What a failure file repeats.
    #[serde(default)]
    pub repeats: Option<Repeats>,
}

fn one() -> u64 {
    1
}

/// `[storage]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// How many nodes, 4 to 4,000. They are in the nine regions in turn, and so are those that come later.
    pub nodes: u32,
    /// In how many regions those are that are there from the beginning.
    pub regions: u32,
    /// How many files are stored.
    pub files: u32,
    /// The longest file, in bytes.
    pub file_bytes: u64,
    /// How many data shards a chunk has …
    pub data: u16,
    /// … and how many parity shards.
    pub parity: u16,
    /// The longest shard, in bytes.
    pub shard_bytes: u32,
    /// How much each node can hold, in bytes.
    pub capacity: u64,
    /// How many nodes keep a file's record.
    pub keepers: u32,
    /// How many requests of clients are under way at once.
    pub in_flight: u32,
    /// Sagas that succeed.
    pub sagas: u32,
    /// Sagas whose last step is refused.
    pub sagas_failing: u32,
    /// Transactions.
    pub transactions: u32,
    /// How many nodes take part in each.
    pub participants: u32,
    /// Locks that are taken together, what they guard is written, and they are given back.
    pub locks: u32,
    /// By how many clients; if they are several, all at the same table, at once.
    pub lockers: u32,
    /// What each node has at stake; 0: nothing.
    pub stake: u64,
    /// How many times some client fetches some file while faults strike.
    pub downloads: u32,
    /// Whether nodes learn whom to ask first for a shard; if not, the static score decides.
    pub learns: bool,
    /// How long a message is waited for.
    pub patience: Span,
    /// How long a coordinator waits for an answer before it asks again the first time; 16 times as long later.
    pub resend_after: Span,
    /// How often nodes report to the authority what they have seen.
    pub report_every: Span,
    /// How long nodes meet before clients ask; four times the patience, if 0.
    pub settle: Span,
    /// How often every shard is asked a proof of.
    pub audit_every: Span,
    /// How long a prover has.
    pub audit_deadline: Span,
    /// In how long a node reads each of its shards again.
    pub scrub_round: Span,
    /// How often a node is heard by its neighbours.
    pub beat: Span,
    /// By how many.
    pub neighbours: u32,
    /// How long a silent node is not dead.
    pub alive: Span,
    /// Shards that may be rebuilt by one node within a minute.
    pub repairs_per_minute: u32,
    /// Shards that may be moved by one node within a minute since they lie in the wrong place.
    pub moves_per_minute: u32,
    /// How often it looks whether some do.
    pub rebalance_every: Span,
    /// How long a node has to have been there before shards are moved to it since it has room.
    pub steady: Span,
    /// Files that one node may give another scheme within a minute, if one is advised; none, if 0.
    pub reencodes_per_minute: u32,
    /// How many data shards the schemes have that are advised, falling.
    pub schemes: Vec<u16>,
    /// How long a scheme has to be advised before a file takes it that is safe as it is, and health has to be better
    /// before a scheme is advised that has less parity.
    pub advice_steady: Span,
    /// How long reading or writing a shard takes.
    pub shard_disk: Between,
    /// How long the world goes on before it is healed and looked at, from when clients have been served.
    pub lasts: Span,
    /// How long everything may take to come to rest after that.
    pub budget: Span,
    /// How many events may happen.
    pub events: u64,
}

impl Default for Storage {
    fn default() -> Storage {
        let seconds = |seconds| Span(Duration::from_secs(seconds));
        Storage {
            nodes: 12,
            regions: 9,
            files: 8,
            file_bytes: 2_000,
            data: 4,
            parity: 2,
            shard_bytes: 256,
            capacity: 1 << 20,
            keepers: 3,
            in_flight: 64,
            sagas: 0,
            sagas_failing: 0,
            transactions: 0,
            participants: 3,
            locks: 0,
            lockers: 1,
            stake: 0,
            downloads: 0,
            learns: true,
            patience: seconds(5),
            resend_after: Span(Duration::from_millis(500)),
            report_every: seconds(60),
            settle: seconds(0),
            audit_every: seconds(300),
            audit_deadline: seconds(60),
            scrub_round: seconds(600),
            beat: seconds(5),
            neighbours: 8,
            alive: seconds(60),
            repairs_per_minute: 10,
            moves_per_minute: 4,
            rebalance_every: seconds(60),
            steady: seconds(600),
            reencodes_per_minute: 0,
            schemes: vec![16, 8, 4, 2, 1],
            advice_steady: seconds(600),
            shard_disk: Between(Duration::from_micros(100), Duration::from_millis(4)),
            lasts: seconds(60),
            budget: seconds(7_200),
            events: 200_000_000,
        }
    }
}

/// `[faults]`: all of them strike between the moments of `window`, counted from when clients have
/// been served, but for crashes and partitions: those count from the beginning.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Power losses of nodes, each before one of the outputs that follow a moment.
    pub power_losses: u32,
    /// Crashes of processes.
    pub process_crashes: u32,
    /// Power losses of the node that keeps the ledger, within the few seconds in which clients first ask.
    pub ledger_losses: u32,
    /// Syncs of nodes' logs that fail: what they were to reach may be lost or kept.
    pub sync_errors: u32,
    /// Partitions: a region is cut off, or some nodes are.
    pub partitions: u32,
    /// When these begin.
    pub crash_window: Between,
    /// How long nodes are down, and partitions last.
    pub down: Between,
    /// Shards of which a copy rots: at most as many of a stripe at once as it can lose.
    pub rot: u32,
    /// The nodes that rot strikes; all, if 0: the first so many.
    pub rot_nodes: u32,
    /// When it does.
    pub window: Between,
    /// Which part of the nodes leaves for good in an hour; as many new ones join.
    pub churn: Share,
    /// So many more leave within `lasts`.
    pub leaves: u32,
    /// So many more join within `lasts`, and nobody leaves for them.
    pub joins: u32,
    /// Of these the first so many announce room and have none: they keep nothing that they are given.
    pub full: u32,
    /// Which part of those who leave says so before, and goes only when nothing of it is needed.
    pub drain: Share,
    /// Which part of those who leave without a word does so when it is about to tell what is committed; the others
    /// between any two outputs. It strikes nobody who is the last that is there of those who have a file's newest record,
    /// or without whom fewer shards would be left where that says than it takes to decode the file: such nodes are
    /// passed over, and counted.
    pub departs: Share,
    /// A region that is cut off, 0 to 8, at the beginning of `window` until its end.
    pub region: Option<u32>,
    /// Nodes whose disks of shards are a thousand times as slow.
    pub slow_disks: u32,
    /// Nodes that throw their shards away and say that all is well, with proofs that they forge or repeat.
    pub liars: u32,
    /// How long after clients have been served these begin: until then they collect proofs that show a
    /// part of a shard.
    pub liars_after: Span,
    /// So many times whoever has just read what its locks guard stands still, …
    pub holder_stalls: u32,
    /// … for this long. A lease is over after 60 s.
    pub stall: Between,
    /// So many times whoever is about to ask for a write under its locks loses its power.
    pub holder_crashes: u32,
    /// Nodes that report twice the bytes that they have moved, and transfers that never were.
    pub boasters: u32,
    /// Whatever a table of locks grants, somebody shows it claims like those that nobody was given.
    pub forged_claims: bool,
    /// Which part of the clients that store a file asks once, and never again.
    pub clients_leave: Share,
    /// How many operations a node's coordinator has under way at once, of sagas and of transactions each; the
    /// rest it refuses. 0: as many as it takes by default.
    pub active_max: u32,
    /// Eight nodes spend the same units three times at once.
    pub spend_twice: bool,
    /// Slashed operators dispute, at the end of `window`, and voters vote this part of the slashes down.
    pub disputes: Option<Share>,
}

impl Default for Faults {
    fn default() -> Faults {
        let second = Duration::from_secs(1);
        Faults {
            power_losses: 0,
            process_crashes: 0,
            ledger_losses: 0,
            sync_errors: 0,
            partitions: 0,
            crash_window: Between(Duration::ZERO, 20 * second),
            down: Between(second / 100, 5 * second),
            rot: 0,
            rot_nodes: 0,
            window: Between(Duration::ZERO, 60 * second),
            churn: Share::default(),
            leaves: 0,
            joins: 0,
            full: 0,
            drain: Share::default(),
            departs: Share::default(),
            region: None,
            slow_disks: 0,
            liars: 0,
            liars_after: Span(Duration::ZERO),
            holder_stalls: 0,
            stall: Between(30 * second, 150 * second),
            holder_crashes: 0,
            boasters: 0,
            forged_claims: false,
            clients_leave: Share::default(),
            active_max: 0,
            spend_twice: false,
            disputes: None,
        }
    }
}

/// `[expect]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expected {
    /// Files that are stored.
    pub stored: Option<u64>,
    /// Sagas that completed.
    pub completed: Option<u64>,
    /// Sagas that were undone.
    pub compensated: Option<u64>,
    /// Transactions that committed.
    pub committed: Option<u64>,
    /// Locks that were taken and given back.
    pub locked: Option<u64>,
    /// Shards that were rebuilt, placed, and found healthy when they were read again.
    pub repaired: Option<u64>,
    /// At least as many.
    pub min_repaired: Option<u64>,
    /// Shards that lay in the wrong place and were moved, at least …
    pub min_moved: Option<u64>,
    /// … and at most.
    pub max_moved: Option<u64>,
    /// Files that were given another scheme, at least.
    pub min_reencoded: Option<u64>,
    /// The scheme that all files have at the end, such as `"RS(4,3)"`.
    pub scheme: Option<String>,
    /// In how many regions each stripe of a stored file is at the end, at least.
    pub min_stripe_regions: Option<u64>,
    /// How much fuller the fullest node is then than the emptiest one, at most, in percent of what each can store.
    pub max_gap_percent: Option<u64>,
    /// Operators with exactly their stake behind them or in escrow.
    pub staked: Option<u64>,
    /// Slashes that nobody has decided about.
    pub escrows: Option<u64>,
    /// Slashes that were decided, at least.
    pub min_decided: Option<u64>,
    /// Requests to the ledger that were refused for good.
    pub refused: Option<u64>,
    /// In how many regions the nodes are.
    pub regions: Option<u64>,
    /// How many nodes would first ask one in their own region, at least, in percent.
    pub min_local_percent: Option<u64>,
    /// Writes that were refused since a higher token was seen, at least.
    pub min_fenced: Option<u64>,
    /// Which part of the bytes that were moved both ends have agreed on when all is at rest, at least, in percent.
    pub min_reconciled_percent: Option<u64>,
    /// How long downloads take while faults strike, on the average and at most.
    pub max_download_mean: Option<Span>,
    /// How well the network is.
    pub health: Option<String>,
}

impl Scenario {
    /// True if the text is of a world of storage nodes.
    #[must_use]
    pub fn is_one(text: &str) -> bool {
        text.lines().any(|line| line.trim() == "[storage]")
    }

    /// The scenario of a text.
    ///
    /// # Errors
    /// What is wrong, with its line.
    pub fn parse(text: &str) -> Result<Scenario, String> {
        let scenario: Scenario = toml::from_str(text).map_err(|error| error.to_string())?;
        scenario.check()?;
        Ok(scenario)
    }

    /// How the network's health is judged.
    #[must_use]
    pub fn policy(&self) -> erasure::Config {
        erasure::Config {
            data_shards: self.storage.schemes.clone(),
            rise_after: self.storage.advice_steady.0,
            ..erasure::Config::default()
        }
    }

    /// The schemes that files may have: first their owners', then what may be advised, if nodes follow.
    #[must_use]
    pub fn schemes(&self) -> Vec<erasure::Scheme> {
        let own = erasure::Scheme::new(self.storage.data, self.storage.parity);
        let own = own.expect("check() has seen that it is one");
        let offers = match erasure::SchemePolicy::new(self.policy()) {
            Ok(policy) if self.storage.reencodes_per_minute > 0 => policy.offers(),
            _ => Default::default(),
        };
        [own].into_iter().chain(offers.into_iter().filter(|offer| *offer != own)).collect()
    }

    fn check(&self) -> Result<(), String> {
        erasure::SchemePolicy::new(self.policy()).map_err(|error| format!("storage: {error}"))?;
        let Storage { nodes, data, parity, participants, keepers, locks, .. } = self.storage;
        let total = u32::from(data) + u32::from(parity);
        let scheme = erasure::Scheme::new(data, parity).map_err(|error| error.to_string());
        scheme?;
        let wrong = [
            (self.format != 1, "format: this build reads format 1"),
            (!(4..=4_000).contains(&nodes), "storage.nodes: expected 4 to 4000"),
            (total > nodes, "storage: more shards of a stripe than nodes"),
            (participants > nodes, "storage.participants: more than there are nodes"),
            (keepers == 0 || keepers >= nodes, "storage.keepers: at least one, fewer than nodes"),
            (locks > 64, "storage.locks: a holder has at most 64"),
            (self.storage.neighbours == 0, "storage.neighbours: at least one"),
            (self.storage.lockers == 0, "storage.lockers: at least one"),
            (!(1..=9).contains(&self.storage.regions), "storage.regions: expected 1 to 9"),
            (self.faults.full > self.faults.joins, "faults.full: more than join"),
            (self.faults.region.is_some_and(|region| region > 8), "faults.region: expected 0 to 8"),
            (self.faults.liars >= nodes, "faults.liars: somebody has to be honest"),
        ];
        if let Some((_, what)) = wrong.into_iter().find(|(wrong, _)| *wrong) {
            return Err(what.to_owned());
        }
        let Some(only) = &self.only else { return Ok(()) };
        let drawn = plan::drawn(self);
        if let Some(entry) = only.iter().find(|entry| drawn.binary_search(entry).is_err()) {
            return Err(format!("only: `{entry}` is not drawn"));
        }
        match only.iter().any(Entry::is_client) {
            true => Ok(()),
            false => Err("only: names no client: nobody wants anything".to_owned()),
        }
    }
}

/// The text of a small world with dense faults: each seed is another one.
#[must_use]
pub fn small(seed: u64) -> String {
    let mut stream = base::prng::Key::root(seed).child("storage.small").stream();
    let nodes = stream.between(9, 16);
    let (files, parity) = (stream.between(2, 6), stream.between(1, 3));
    let data = stream.between(2, 4);
    let (power, process) = (stream.below(10), stream.below(5));
    let (partitions, rot) = (stream.below(3), stream.below(6));
    let (loss, duplicate) = (stream.below(5), stream.below(6));
    let (locks, stake) = (stream.below(6), stream.below(2) * 10_000);
    let (sagas, transactions) = (stream.below(3), stream.below(3));
    let mode = stream.below(3);
    let torn = ["byte", "sector", "both"][mode as usize];
    // Drawn apart, so that what a seed has drawn before stays.
    let mut more = base::prng::Key::root(seed).child("storage.small.more").stream();
    let (leaves, away) = (more.below(3), more.below(3) / 2 * 40);
    let active = more.below(4) / 3 * more.between(1, 3);
    let ledger = if stake > 0 { more.below(3) } else { 0 };
    let syncs = more.below(2) * more.between(1, 4);
    let mut links = base::prng::Key::root(seed).child("storage.small.links").stream();
    let (downloads, holders) = (links.below(8), links.below(3));
    // A transaction that is decided waits for ever for a participant that has left, and takes a place.
    let active = if active > 0 { active + leaves } else { 0 };
    // Drawn apart again: in half of them nodes of few regions fill up, and others come, some of which have no room.
    let mut moves = base::prng::Key::root(seed).child("storage.small.moves").stream();
    let uneven = moves.below(2) == 0;
    let (regions, joins) = if uneven { (moves.between(1, 3), moves.between(2, 6)) } else { (9, 0) };
    let full = if uneven { moves.below(3) } else { 0 };
    let capacity = if uneven { moves.between(12, 40) * 1_000 } else { 1 << 20 };
    // In half of them files come to have another scheme than their owners gave them.
    let mut anew = base::prng::Key::root(seed).child("storage.small.encodings").stream();
    let encodes = anew.below(2) * anew.between(6, 60);
    let schemes = ["[4, 2]", "[3, 2]", "[2]", "[6, 3, 2]"][anew.below(4) as usize];
    format!(
        "format = 1\nname = \"small-storage\"\nseed = {seed}\n\
         [network]\nlatency = \"1ms..60ms\"\nloss = \"{loss}%\"\nduplicate = \"{duplicate}%\"\nreorder = \"5%\"\n\
         [disk]\ntorn = \"{torn}\"\n\
         [storage]\nnodes = {nodes}\nfiles = {files}\nfile_bytes = 1500\ndata = {data}\nparity = {parity}\n\
         locks = {locks}\nstake = {stake}\nsagas = {sagas}\nsagas_failing = 1\ntransactions = {transactions}\n\
         in_flight = 8\naudit_every = \"60s\"\naudit_deadline = \"20s\"\nscrub_round = \"60s\"\nlasts = \"60s\"\n\
         repairs_per_minute = 60\nevents = 3000000\ndownloads = {downloads}\nregions = {regions}\ncapacity = {capacity}\n\
         moves_per_minute = 60\nrebalance_every = \"10s\"\nsteady = \"15s\"\n\
         reencodes_per_minute = {encodes}\nschemes = {schemes}\nadvice_steady = \"10s\"\nreport_every = \"5s\"\n\
         [faults]\njoins = {joins}\nfull = {full}\npower_losses = {power}\nprocess_crashes = {process}\npartitions = {partitions}\n\
         ledger_losses = {ledger}\nsync_errors = {syncs}\nrot = {rot}\ncrash_window = \"0s..90s\"\nwindow = \"0s..40s\"\ndown = \"10ms..12s\"\n\
         leaves = {leaves}\ndrain = \"100%\"\nclients_leave = \"{away}%\"\nactive_max = {active}\n\
         holder_crashes = {holders}\n"
    )
}

/// The text of a small world in which also nodes lie, are cut off for long or have slow disks, locks are fought for, claims
/// are forged, units are spent twice and repairs are rationed: each seed is another one.
#[must_use]
pub fn hostile(seed: u64) -> String {
    let mut stream = base::prng::Key::root(seed).child("storage.hostile").stream();
    let nodes = stream.between(10, 16);
    let (files, data, parity) = (stream.between(2, 5), stream.between(2, 4), stream.between(2, 3));
    let (power, process, partitions) = (stream.below(8), stream.below(5), stream.below(2));
    let (loss, duplicate) = (stream.below(4), stream.below(6));
    // Shards of one block are shown whole by each proof; of those of eight blocks half is asked for.
    let (shard_bytes, file_bytes) = [(256, 1_500), (2_048, 12_000)][stream.below(2) as usize];
    let (locks, lockers, spend) =
        (stream.between(1, 4), stream.between(2, 6), stream.below(2) == 0);
    let (repairs, slow) = (stream.between(2, 20), stream.below(3));
    let faults = match stream.below(3) {
        0 => format!("liars = 1\nliars_after = \"100s\"\nrot = {}\n", stream.below(3)),
        1 => format!("region = {}\nslow_disks = {slow}\n", stream.below(9)),
        _ => format!("rot = {}\nslow_disks = {slow}\n", stream.below(8)),
    };
    // Drawn apart, so that what a seed has drawn before stays: many files in few nodes. Some of these go without a
    // word, so that whoever sees to the files has more to rebuild than it may at once; or one begins to lie
    // while shards beside its own rot, so that repairs ask it before its proofs have failed.
    let mut more = base::prng::Key::root(seed).child("storage.hostile.more").stream();
    let crowded = more.below(4) == 0;
    let (nodes, files, repairs) =
        if crowded { (8, more.between(8, 16), 1 + repairs / 6) } else { (nodes, files, repairs) };
    let lies = crowded && more.below(2) == 0;
    let syncs = more.below(2) * more.between(1, 4);
    let window = if lies { "100s..150s" } else { "100s..400s" };
    let mut links = base::prng::Key::root(seed).child("storage.hostile.links").stream();
    let (downloads, boasters) = (links.below(30), links.below(3));
    let (stalls, holders) = (links.below(4), links.below(4));
    // Moves are rationed too, or there are none.
    let mut moves = base::prng::Key::root(seed).child("storage.hostile.moves").stream();
    let (per_minute, regions) = (moves.below(2) * moves.between(2, 20), moves.between(1, 9));
    let joins = moves.below(3) / 2 * moves.between(1, 4);
    let mut anew = base::prng::Key::root(seed).child("storage.hostile.encodings").stream();
    // Nodes that go or lie take more of a stripe than one parity shard can replace, and what they had needs a node.
    let encodes = if crowded { 0 } else { anew.below(2) * anew.between(2, 20) };
    // Fewer data shards have less parity than that in a network that is well.
    let schemes = ["[4]", "[6, 4]", "[8, 4]", "[8, 5, 4]"][anew.below(4) as usize];
    let faults = match (crowded, lies) {
        (false, _) => faults,
        (_, false) => {
            format!("leaves = {}\ndrain = \"0%\"\ndeparts = \"50%\"\n", more.between(1, 2))
        }
        (_, true) => "liars = 1\nliars_after = \"100s\"\nrot = 10\n".to_owned(),
    };
    format!(
        "format = 1\nname = \"hostile-storage\"\nseed = {seed}\n\
         [network]\nlatency = \"1ms..60ms\"\nloss = \"{loss}%\"\nduplicate = \"{duplicate}%\"\nreorder = \"5%\"\n\
         [disk]\ntorn = \"both\"\n\
         [storage]\nnodes = {nodes}\nfiles = {files}\nfile_bytes = {file_bytes}\ndata = {data}\nparity = {parity}\n\
         shard_bytes = {shard_bytes}\nlocks = {locks}\nlockers = {lockers}\nstake = 10000\nsagas = 1\nsagas_failing = 1\n\
         transactions = 1\nin_flight = 12\naudit_every = \"60s\"\naudit_deadline = \"20s\"\nscrub_round = \"60s\"\n\
         lasts = \"600s\"\nrepairs_per_minute = {repairs}\nevents = 5000000\ndownloads = {downloads}\n\
         moves_per_minute = {per_minute}\nregions = {regions}\nsteady = \"100s\"\n\
         reencodes_per_minute = {encodes}\nschemes = {schemes}\nadvice_steady = \"60s\"\nreport_every = \"20s\"\n\
         [faults]\njoins = {joins}\npower_losses = {power}\nprocess_crashes = {process}\npartitions = {partitions}\n\
         sync_errors = {syncs}\ncrash_window = \"0s..120s\"\nwindow = \"{window}\"\ndown = \"10ms..12s\"\nforged_claims = true\n\
         boasters = {boasters}\nholder_stalls = {stalls}\nholder_crashes = {holders}\nspend_twice = {spend}\n{faults}"
    )
}

/// The text of a world of 600 nodes in nine regions, short, with all kinds of faults: each seed is another one.
///
/// Crashes, losses, partitions, slow disks, nodes that leave, fights for locks, forged claims and a full coordinator
/// may come in any world. Liars, a region that is cut off, and much rot come each in worlds of their own: together
/// they may take more of a stripe than it can lose.
#[must_use]
pub fn large(seed: u64) -> String {
    let mut stream = base::prng::Key::root(seed).child("storage.large").stream();
    let (files, keepers) = (stream.between(20, 40), stream.between(3, 5));
    let (data, parity) = (stream.between(2, 5), stream.between(2, 4));
    let (power, process, partitions) =
        (stream.between(50, 300), stream.between(20, 100), stream.below(4));
    let (loss, duplicate) = (stream.below(4), stream.below(4));
    let (locks, lockers) = (stream.between(1, 8), stream.between(2, 6));
    let (sagas, transactions) = (stream.below(8), stream.below(4));
    let (slow, leaves, away) = (stream.below(6), stream.below(8), stream.below(2) * 20);
    let (spend, active) = (stream.below(2) == 0, stream.below(4) / 3 * stream.between(1, 3));
    let syncs = stream.below(2) * stream.between(10, 60);
    let mut links = base::prng::Key::root(seed).child("storage.large.links").stream();
    let (downloads, stalls, holders) = (links.below(200), links.below(3), links.below(3));
    let mut moves = base::prng::Key::root(seed).child("storage.large.moves").stream();
    let (regions, joins) = (moves.between(1, 9), moves.below(2) * moves.between(5, 30));
    let encodes = moves.below(2) * moves.between(2, 10);
    let faults = match stream.below(3) {
        0 => format!("liars = 3\nliars_after = \"60s\"\nrot = {}\n", stream.below(3)),
        1 => format!("region = {}\n", stream.below(9)),
        _ => format!("rot = {}\n", stream.between(5, 20)),
    };
    format!(
        "format = 1\nname = \"large-storage\"\nseed = {seed}\n\
         [network]\nlatency = \"regions\"\nloss = \"{loss}%\"\nduplicate = \"{duplicate}%\"\nreorder = \"2%\"\n\
         [disk]\ntorn = \"both\"\n\
         [storage]\nnodes = 600\nfiles = {files}\nfile_bytes = 2000\ndata = {data}\nparity = {parity}\n\
         keepers = {keepers}\nlocks = {locks}\nlockers = {lockers}\nstake = 10000\nsagas = {sagas}\n\
         sagas_failing = 2\ntransactions = {transactions}\nparticipants = 8\nin_flight = 700\n\
         beat = \"20s\"\naudit_every = \"60s\"\naudit_deadline = \"20s\"\nscrub_round = \"60s\"\n\
         repairs_per_minute = 30\nlasts = \"240s\"\ndownloads = {downloads}\nmoves_per_minute = 20\nregions = {regions}\n\
         steady = \"60s\"\nreencodes_per_minute = {encodes}\nschemes = [8, 4, 2]\nadvice_steady = \"60s\"\n\
         report_every = \"20s\"\n\
         [faults]\njoins = {joins}\npower_losses = {power}\nprocess_crashes = {process}\npartitions = {partitions}\n\
         sync_errors = {syncs}\ncrash_window = \"15s..180s\"\nwindow = \"60s..200s\"\ndown = \"10ms..15s\"\nslow_disks = {slow}\n\
         leaves = {leaves}\ndrain = \"100%\"\nclients_leave = \"{away}%\"\nactive_max = {active}\n\
         forged_claims = true\nspend_twice = {spend}\nholder_stalls = {stalls}\nholder_crashes = {holders}\n{faults}"
    )
}
