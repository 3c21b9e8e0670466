//! Random small worlds: 3 to 9 nodes, a few operations, and faults as dense as they come. Most bugs
//! of crash recovery need no more (CREB, FSE 2018: four nodes and three crashes).

use crate::scenario::Scenario;
use base::prng::{Key, Stream};

/// The scenario of a seed, as a file.
#[must_use]
pub fn small(seed: u64) -> String {
    let mut stream = Key::root(seed).child("small").stream();
    let s = &mut stream;
    let nodes = s.between(3, 9);
    let coordinators = s.between(1, nodes.min(3));
    let kind = ["saga", "twopc", "mixed"][s.below(3) as usize];
    let shape = ["row", "join", "random"][s.below(3) as usize];
    let sync = ["50us..500us", "0.2ms..5ms", "1ms..20ms"][s.below(3) as usize];
    let latency = ["0.1ms..1ms", "1ms..10ms", "1ms..60ms"][s.below(3) as usize];
    let torn = ["no", "byte", "sector", "both"][s.below(4) as usize];
    let participants = s.between(1, nodes.min(4));
    let operations = s.between(2, 24);
    let (steps, in_flight, cells) = (s.between(1, 6), s.between(1, 8), s.between(1, 20));
    let interval = s.between(5, 60);
    let sometimes =
        |s: &mut Stream, most: u64| if s.below(2) == 0 { 0 } else { s.between(1, most) };
    let percent = |s: &mut Stream, most: u64| if s.below(2) == 0 { 0 } else { s.between(1, most) };
    let (no, refuse) = (percent(s, 20), percent(s, 20));
    let (loss, duplicate, reorder) = (percent(s, 20), percent(s, 20), percent(s, 30));
    let crashes = s.between(1, 3);
    let again = if s.below(2) == 0 { 0 } else { s.between(1, crashes) };
    let (others, processes, zombies) = (sometimes(s, 3), sometimes(s, 2), sometimes(s, 2));
    let (pauses, partitions, drops) = (sometimes(s, 2), sometimes(s, 2), sometimes(s, 2));
    let window = ["20ms", "100ms", "500ms"][s.below(3) as usize];
    let lasts = ["1ms..50ms", "1ms..500ms", "100ms..3s"][s.below(3) as usize];
    let heals = if partitions + drops == 0 { 0 } else { s.below(2) };
    let segment = [4_096, 16_384][s.below(2) as usize];
    let batch = [1_024, 4_096, 16_384][s.below(3) as usize];
    let idle = ["2ms", "20ms", "500ms"][s.below(3) as usize];
    // What was added to sagas later is drawn apart, so that the worlds without it stay as they were.
    let apart = &mut Key::root(seed).child("small").child("sagas").stream();
    let rich = apart.below(2) == 1;
    let (kinds, feeds) = (rich && apart.below(3) > 0, if rich { percent(apart, 100) } else { 0 });
    let stuck = if rich { percent(apart, 30) } else { 0 };
    let cancels = if rich { percent(apart, 30) } else { 0 };
    let undo_attempts = if stuck > 0 { apart.between(1, 4) } else { 0 };
    let jitter = if rich { percent(apart, 50) } else { 0 };
    let more = &mut Key::root(seed).child("small").child("keys").stream();
    let (asks_again, changes) = (percent(more, 60), more.between(1, 3));
    let compactions = sometimes(more, 3);
    let ails = &mut Key::root(seed).child("small").child("disks").stream();
    let ailing = ails.below(2) == 1;
    let few = |s: &mut Stream, most: u64| if ailing { sometimes(s, most) } else { 0 };
    let (sync_errors, write_errors) = (few(ails, 3), few(ails, 3));
    let (read_errors, disks_full, stalls) = (few(ails, 1), few(ails, 2), few(ails, 2));
    let clock_jumps = few(ails, 2);
    let (drift, offset) = (few(ails, 300_000), few(ails, 100_000));
    let rot = if zombies == 0 && ails.below(4) == 0 { ails.between(1, 3) } else { 0 };
    let worn = &mut Key::root(seed).child("small").child("sectors").stream();
    let sectors = zombies == 0 && worn.below(8) == 0;
    let some = |s: &mut Stream| if sectors { s.below(3) } else { 0 };
    let (zeroed, stale, misdirected) = (some(worn), some(worn), some(worn));
    let clogs = if worn.below(4) == 0 { worn.between(1, 3) } else { 0 };
    let recovery_sync_errors = if worn.below(4) == 0 { worn.between(1, 3) } else { 0 };
    let tight = &mut Key::root(seed).child("small").child("room").stream();
    let logs_confined = if tight.below(4) == 0 { tight.between(1, 4) } else { 0 };
    let is_damaged = rot + zeroed + stale + misdirected > 0;
    let mode = if is_damaged { "unrestricted" } else { "atlas" };
    let terms = &mut Key::root(seed).child("small").child("transactions").stream();
    let (alone, looks) = (percent(terms, 60), percent(terms, 60));
    let forced = &mut Key::root(seed).child("small").child("forces").stream();
    let forces = if forced.below(8) == 0 { forced.between(5, 60) } else { 0 };
    // What an operator ends against its coordinator a saga cannot undo.
    let nested = &mut Key::root(seed).child("small").child("nests").stream();
    let nests = if forces == 0 && nested.below(4) == 0 { nested.between(20, 100) } else { 0 };
    // A definition within a definition is one record.
    let batch = if nests > 0 { 32_768 } else { batch };
    let records = [12, 40, 200][s.below(3) as usize];
    format!(
        "format = 1\nname = \"small-{seed}\"\nseed = {seed}\n\n\
         [cluster]\nnodes = {nodes}\ncoordinators = {coordinators}\nregions = {coordinators}\n\n\
         [workload]\nkind = \"{kind}\"\nshape = \"{shape}\"\noperations = {operations}\n\
         participants = {participants}\nsteps = {steps}\nin_flight = {in_flight}\ncells = {cells}\n\
         vote_no = \"{no}%\"\nalone = \"{alone}%\"\nlooks = \"{looks}%\"\nrefuse = \"{refuse}%\"\n\
         kinds = {kinds}\nfeeds = \"{feeds}%\"\nstuck = \"{stuck}%\"\ncancels = \"{cancels}%\"\n\
         asks_again = \"{asks_again}%\"\nchanges = {changes}\nforces = \"{forces}%\"\n\
         nests = \"{nests}%\"\n\n\
         [network]\nlatency = \"{latency}\"\nloss = \"{loss}%\"\nduplicate = \"{duplicate}%\"\n\
         reorder = \"{reorder}%\"\n\n\
         [clock]\noffset = \"{offset}ms\"\ndrift_ppm = {drift}\n\n\
         [disk]\nmode = \"{mode}\"\nsync = \"{sync}\"\ntorn = \"{torn}\"\nsegment_bytes_first = {segment}\n\
         batch_bytes_max = {batch}\nidle_guard = \"{idle}\"\n\
         checkpoint_interval = {interval}\nmax_records = {records}\n\n\
         [node]\nresend = \"50ms\"\nprepare_timeout = \"500ms\"\nstep_timeout = \"2s\"\n\
         saga_timeout = \"10s\"\ninquire = \"100ms\"\n\
         undo_attempts = {undo_attempts}\njitter_percent = {jitter}\n\n\
         [chaos]\ncoordinator_crashes = {crashes}\nrecovery_crashes = {again}\n\
         participant_crashes = {others}\ncompaction_crashes = {compactions}\nprocess_crashes = {processes}\nzombies = {zombies}\n\
         pauses = {pauses}\npartitions = {partitions}\ndrops = {drops}\n\
         heals = {heals}\nsync_errors = {sync_errors}\nwrite_errors = {write_errors}\n\
         read_errors = {read_errors}\ndisks_full = {disks_full}\nstalls = {stalls}\n\
         bit_rot = {rot}\nclock_jumps = {clock_jumps}\n\
         zeroed_sectors = {zeroed}\nstale_sectors = {stale}\nmisdirected_writes = {misdirected}\n\
         clogs = {clogs}\nrecovery_sync_errors = {recovery_sync_errors}\n\
         logs_confined = {logs_confined}\n\
         window = \"0ms..{window}\"\nlasts = \"{lasts}\"\n\n\
         [budget]\nevents = 1_000_000\n"
    )
}

/// The scenario of a seed.
///
/// # Panics
/// Never: what [`small`] writes is a scenario.
#[must_use]
pub fn random_small(seed: u64) -> Scenario {
    Scenario::parse("small", &small(seed)).expect("a small world's text is a scenario")
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_small_world_is_a_scenario() {
        for seed in 0..500 {
            assert_eq!(super::random_small(seed).seed, seed);
        }
    }
}
