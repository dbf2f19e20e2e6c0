//! The opset of an .onnx file, read from the file itself.
//!
//! Owns: the few bytes of the format around it. Must not: read weights or nodes, which are skipped.
//!
//! An .onnx file is a protocol buffer message: fields, each a key (number and wire type) and a value. ONNX Runtime does
//! not tell the opset of a graph it has loaded.

use std::io::{self, BufRead, ErrorKind, Seek};

/// Fields of ModelProto and OperatorSetIdProto (onnx.proto).
const OPSET_IMPORT: u64 = 8;
const DOMAIN: u64 = 1;
const VERSION: u64 = 2;
/// Wire types.
const VARINT: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const LENGTH_FIRST: u64 = 2;
const FOUR_BYTES: u64 = 5;

/// The version of the ai.onnx operators.
///
/// # Errors
/// `InvalidData` or `UnexpectedEof` for what is no such file, and those of reading.
pub(super) fn read(file: &mut (impl BufRead + Seek)) -> io::Result<u64> {
    while !file.fill_buf()?.is_empty() {
        let (field, wire) = key(file)?;
        if (field, wire) != (OPSET_IMPORT, LENGTH_FIRST) {
            skip(file, wire)?;
            continue;
        }
        let end = varint(file)?.checked_add(file.stream_position()?).ok_or_else(malformed)?;
        let (mut ours, mut version) = (true, 0);
        while file.stream_position()? < end {
            match key(file)? {
                (DOMAIN, LENGTH_FIRST) => {
                    let mut name =
                        vec![0; usize::try_from(varint(file)?).ok().filter(|&len| len < 256).ok_or_else(malformed)?];
                    file.read_exact(&mut name)?;
                    ours = name.is_empty() || name == b"ai.onnx";
                }
                (VERSION, VARINT) => version = varint(file)?,
                (_, wire) => skip(file, wire)?,
            }
        }
        if ours {
            return Ok(version);
        }
    }
    Err(io::Error::new(ErrorKind::InvalidData, "no opset is stated in the file"))
}

fn key(file: &mut impl BufRead) -> io::Result<(u64, u64)> {
    let key = varint(file)?;
    Ok((key >> 3, key & 7))
}

fn skip(file: &mut (impl BufRead + Seek), wire: u64) -> io::Result<()> {
    let bytes = match wire {
        VARINT => return varint(file).map(drop),
        EIGHT_BYTES => 8,
        LENGTH_FIRST => i64::try_from(varint(file)?).map_err(|_| malformed())?,
        FOUR_BYTES => 4,
        _ => return Err(malformed()),
    };
    file.seek_relative(bytes)
}

/// Seven bits a byte, lowest first; the top bit says that more follow.
fn varint(file: &mut impl BufRead) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        file.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            return Ok(value);
        }
    }
    Err(malformed())
}

fn malformed() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "not an ONNX file")
}
