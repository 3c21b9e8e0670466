//! What the disk allows: operations with nothing in them but as many bytes and as many forces as the
//! protocol cannot do without. Whatever is in flight shares each write and sync. Nothing can be
//! recovered from it.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::Trouble;
use crate::shape::{Load, Meter, Sample, Shape};

/// The file is zero-filled and written over again and again: no sync has to write metadata.
const FILE_BYTES: u64 = 64 << 20;

/// Measures, with so many bytes per operation.
pub fn measure(
    folder: &Path,
    shape: Shape,
    load: &Load,
    bytes_per_operation: f64,
) -> Result<Sample, Trouble> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(folder.join("c"))?;
    for offset in (0..FILE_BYTES).step_by(1 << 20) {
        file.write_all_at(&[0; 1 << 20], offset)?;
    }
    file.sync_all()?;
    let piece = vec![0xA7; (bytes_per_operation / f64::from(shape.forces())).ceil() as usize];
    let mut left = vec![shape.forces(); load.in_flight];
    let (mut buffer, mut at) = (Vec::new(), 0);
    let (mut syncs, mut bytes, mut ended) = (0_u64, 0_u64, 0_u64);
    let mut meter = Meter::start(load);
    while !left.is_empty() {
        buffer.clear();
        for _ in &left {
            let begin = buffer.len();
            buffer.extend_from_slice(&piece);
            let checksum = crc32fast::hash(&buffer[begin..]);
            buffer[begin..begin + 4].copy_from_slice(&checksum.to_le_bytes());
        }
        if at + buffer.len() as u64 > FILE_BYTES {
            at = 0;
        }
        file.write_all_at(&buffer, at)?;
        file.sync_data()?;
        at += buffer.len() as u64;
        syncs += 1;
        bytes += buffer.len() as u64;
        left.retain_mut(|left| {
            *left -= 1;
            if *left > 0 {
                return true;
            }
            ended += 1;
            *left = shape.forces();
            meter.ended()
        });
    }
    Ok(Sample {
        per_second: meter.per_second(load),
        syncs_per_operation: syncs as f64 / ended as f64,
        bytes_per_operation: bytes as f64 / ended as f64,
    })
}
