//! `cargo xtask bench store`: erasure coding beside the library under it, and files as shards and back.

use clap::Parser;
use erasure::{Codec, Scheme};
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};
use serde::Serialize;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use store::{Assembly, Config, Key, Salt};

const EXIT_CODES: &str = "\
Exit codes:
  0  measured, whether the bars are met or not
  1  ours gave other shards than the library, or another file
  4  usage";

const SHARD_BYTES: usize = 64 << 10;
const SCHEMES: [(u16, u16); 5] = [(4, 2), (10, 4), (16, 6), (16, 8), (16, 16)];
const BAR: f64 = 0.9;

/// Measures erasure coding beside the library under it.
#[derive(Parser)]
#[command(name = "store-bench", bin_name = "cargo xtask bench store", after_help = EXIT_CODES)]
struct Options {
    /// A tenth of the time.
    #[arg(long)]
    quick: bool,
    /// Print one JSON object in place of tables.
    #[arg(long)]
    json: bool,
}

/// A row: what was done, how fast, and how ours compares.
#[derive(Serialize)]
struct Row {
    what: String,
    ours_mb_s: f64,
    library_mb_s: Option<f64>,
    ratio: Option<f64>,
}

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            // Where it cannot be told, the exit code tells.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(4) } else { ExitCode::SUCCESS };
        }
    };
    let turn = Duration::from_millis(if options.quick { 5 } else { 50 });
    let mut rows = Vec::new();
    for (k, m) in SCHEMES {
        match coding(k, m, turn) {
            Ok(two) => rows.extend(two),
            Err(error) => return failed(&error),
        }
    }
    match file(if options.quick { 2 } else { 10 }) {
        Ok(two) => rows.extend(two),
        Err(error) => return failed(&error),
    }
    if options.json {
        match serde_json::to_string(&rows) {
            Ok(json) => println!("{json}"),
            Err(error) => return failed(&error.to_string()),
        }
        return ExitCode::SUCCESS;
    }
    println!("{:24} {:>10} {:>10} {:>7}", "MB/s of user data", "ours", "library", "ratio");
    for Row { what, ours_mb_s, library_mb_s, ratio } in &rows {
        let library = library_mb_s.map_or(String::new(), |speed| format!("{speed:.0}"));
        let verdict = ratio.map_or(String::new(), |ratio| {
            format!("{ratio:>7.3}  {}", if ratio >= BAR { "met" } else { "NOT MET" })
        });
        println!("{what:24} {ours_mb_s:>10.0} {library:>10} {verdict}");
    }
    println!("bar: at least {BAR} of the library's speed");
    ExitCode::SUCCESS
}

fn failed(error: &str) -> ExitCode {
    eprintln!("store-bench: {error}");
    ExitCode::from(1)
}

/// Bytes without a pattern (xorshift).
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed * 2 + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// A sum that needs each shard: all of them are handed over, and nobody reads them.
fn look<'a>(shards: impl Iterator<Item = &'a [u8]>) -> u64 {
    shards.filter_map(|shard| black_box(shard).first()).map(|&byte| u64::from(byte)).sum()
}

/// Runs `work` for about a turn; calls per second.
fn speed(turn: Duration, mut work: impl FnMut()) -> f64 {
    let begun = Instant::now();
    let mut calls = 0u32;
    loop {
        work();
        calls += 1;
        let took = begun.elapsed();
        if took >= turn {
            return f64::from(calls) / took.as_secs_f64();
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Both in turns; a row of medians.
fn beside(
    what: String,
    user_bytes: f64,
    turn: Duration,
    mut ours: impl FnMut(),
    mut library: impl FnMut(),
) -> Row {
    let (mut own, mut other, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    speed(turn, &mut ours);
    speed(turn, &mut library);
    for at in 0..25 {
        let (mine, theirs);
        if at % 2 == 0 {
            mine = speed(turn, &mut ours);
            theirs = speed(turn, &mut library);
        } else {
            theirs = speed(turn, &mut library);
            mine = speed(turn, &mut ours);
        }
        own.push(mine * user_bytes / 1e6);
        other.push(theirs * user_bytes / 1e6);
        ratios.push(mine / theirs);
    }
    let (ours_mb_s, library_mb_s) = (median(own), Some(median(other)));
    Row { what, ours_mb_s, library_mb_s, ratio: Some(median(ratios)) }
}

fn coding(k: u16, m: u16, turn: Duration) -> Result<[Row; 2], String> {
    let scheme = Scheme::new(k, m).map_err(|error| error.to_string())?;
    let user_bytes = (usize::from(k) * SHARD_BYTES) as f64;
    let data: Vec<Vec<u8>> = (0..k).map(|at| noise(SHARD_BYTES, u64::from(at))).collect();
    let mut codec = Codec::new();
    let (originals, recoveries) = (usize::from(k), usize::from(m));
    let mut encoder = ReedSolomonEncoder::new(originals, recoveries, SHARD_BYTES)
        .map_err(|error| error.to_string())?;
    let mut decoder = ReedSolomonDecoder::new(originals, recoveries, SHARD_BYTES)
        .map_err(|error| error.to_string())?;

    let mut library_encode = || -> Result<Vec<Vec<u8>>, reed_solomon_simd::Error> {
        for shard in &data {
            encoder.add_original_shard(shard)?;
        }
        Ok(encoder.encode()?.recovery_iter().map(<[u8]>::to_vec).collect())
    };
    let theirs = library_encode().map_err(|error| error.to_string())?;
    let ours: Vec<Vec<u8>> = match codec.encode(scheme, &data) {
        Ok(parity) => parity.iter().map(<[u8]>::to_vec).collect(),
        Err(error) => return Err(error.to_string()),
    };
    if ours != theirs {
        return Err(format!("{scheme}: the parity is not the library's"));
    }
    let lost = k.min(m);
    let all: Vec<&[u8]> = data.iter().chain(&ours).map(Vec::as_slice).collect();
    let present: Vec<(u16, &[u8])> =
        (lost..k + lost).zip(all.into_iter().skip(lost.into())).collect();
    match codec.restore(scheme, &present) {
        Ok(restored) if restored.iter().all(|(at, shard)| data[usize::from(at)] == shard) => {}
        Ok(_) => return Err(format!("{scheme}: what is restored is not the data")),
        Err(error) => return Err(error.to_string()),
    }

    let encode = beside(
        format!("encode {scheme}"),
        user_bytes,
        turn,
        || {
            let parity = codec.encode(scheme, &data);
            black_box(parity.map(|parity| look(parity.iter())).unwrap_or_default());
        },
        || {
            for shard in &data {
                black_box(encoder.add_original_shard(shard).is_ok());
            }
            let parity = encoder.encode();
            black_box(parity.map(|parity| look(parity.recovery_iter())).unwrap_or_default());
        },
    );
    let decode = beside(
        format!("decode {scheme}"),
        user_bytes,
        turn,
        || {
            let restored = codec.restore(scheme, &present);
            let sum = restored.map(|restored| look(restored.iter().map(|(_, shard)| shard)));
            black_box(sum.unwrap_or_default());
        },
        || {
            for &(index, shard) in &present {
                let index = usize::from(index);
                let added = match index.checked_sub(originals) {
                    None => decoder.add_original_shard(index, shard),
                    Some(index) => decoder.add_recovery_shard(index, shard),
                };
                black_box(added.is_ok());
            }
            let restored = decoder.decode();
            let sum = restored
                .map(|restored| look(restored.restored_original_iter().map(|(_, shard)| shard)));
            black_box(sum.unwrap_or_default());
        },
    );
    Ok([encode, decode])
}

fn file(turns: u32) -> Result<[Row; 2], String> {
    let scheme = Scheme::new(10, 4).map_err(|error| error.to_string())?;
    let (config, key, bytes) = (Config::new(scheme), Key::new([7; 32]), noise(16 << 20, 1));
    let mut codec = Codec::new();
    let (mut encoding, mut decoding) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        let begun = Instant::now();
        let (manifest, shards) = store::encode(&config, &mut codec, &key, Salt([1; 16]), &bytes)
            .map_err(|error| error.to_string())?;
        encoding.push(bytes.len() as f64 / 1e6 / begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        let mut assembly = Assembly::new(manifest);
        for shard in shards.into_iter().filter(|shard| shard.index >= 4) {
            assembly.offer(shard.digest, shard.bytes).map_err(|error| error.to_string())?;
        }
        let file = assembly.decode(&mut codec, &key).map_err(|error| error.to_string())?;
        decoding.push(bytes.len() as f64 / 1e6 / begun.elapsed().as_secs_f64());
        if file != bytes {
            return Err("another file came back".to_owned());
        }
    }
    let row = |what: &str, speeds| Row {
        what: format!("{what} {scheme}"),
        ours_mb_s: median(speeds),
        library_mb_s: None,
        ratio: None,
    };
    Ok([row("file to shards", encoding), row("shards to file", decoding)])
}
