//! Embedding tables: one row per token, mapped from the bundle's file.
//!
//! Owns: reading rows in the table's type. Must not: copy the table (the LLM's is over a gigabyte at real size).

#![allow(unsafe_code)]

use std::fs::File;

use half::f16;
use memmap2::Mmap;

use crate::bundle::Bundle;
use crate::error::{ModelError, Result};
use crate::manifest::TableType;

/// A mapped `[rows, width]` table, little endian.
#[derive(Debug)]
pub(crate) struct EmbedTable {
    file: String,
    map: Mmap,
    dtype: TableType,
    rows: usize,
    width: usize,
}

/// Where a row goes: the type of the graph's input.
#[derive(Debug)]
pub(crate) enum RowMut<'a> {
    F32(&'a mut [f32]),
    F16(&'a mut [f16]),
}

impl EmbedTable {
    /// Maps `file` of the bundle.
    ///
    /// # Errors
    /// [`ModelError::BundleFile`] if the size is not rows * width values.
    pub(crate) fn open(bundle: &Bundle, file: &str, dtype: TableType, rows: usize, width: usize) -> Result<Self> {
        let path = bundle.path(file);
        let handle = File::open(&path).map_err(ModelError::io(&path))?;
        // SAFETY: bundles are read-only while the server runs; changing one under it is outside the contract, as it is
        // for the graphs' own data files, which ONNX Runtime maps in the same way.
        let map = unsafe { Mmap::map(&handle) }.map_err(ModelError::io(&path))?;
        let bytes = rows * width * bytes_per_value(dtype);
        if map.len() != bytes {
            let reason = format!("{} bytes, a table of {rows} rows of {width} values has {bytes}", map.len());
            return Err(ModelError::BundleFile { path, reason });
        }
        Ok(EmbedTable { file: file.to_owned(), map, dtype, rows, width })
    }

    /// Values of a row.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Fails for an id outside the table.
    pub(crate) fn check(&self, ids: impl IntoIterator<Item = u32>) -> Result<()> {
        match ids.into_iter().find(|&id| id as usize >= self.rows) {
            None => Ok(()),
            Some(id) => Err(ModelError::TokenRange { table: self.file.clone(), id, rows: self.rows }),
        }
    }

    /// Copies row `id`, which must be inside the table (see [`EmbedTable::check`]).
    pub(crate) fn copy(&self, id: u32, out: RowMut<'_>) {
        let size = self.width * bytes_per_value(self.dtype);
        let row = &self.map[id as usize * size..][..size];
        let singles = row.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let halves = row.as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes));
        match (self.dtype, out) {
            (TableType::Float32, RowMut::F32(out)) => out.iter_mut().zip(singles).for_each(|(to, from)| *to = from),
            (TableType::Float32, RowMut::F16(out)) => {
                out.iter_mut().zip(singles).for_each(|(to, from)| *to = f16::from_f32(from));
            }
            (TableType::Float16, RowMut::F32(out)) => {
                out.iter_mut().zip(halves).for_each(|(to, from)| *to = from.to_f32())
            }
            (TableType::Float16, RowMut::F16(out)) => out.iter_mut().zip(halves).for_each(|(to, from)| *to = from),
        }
    }
}

fn bytes_per_value(dtype: TableType) -> usize {
    match dtype {
        TableType::Float32 => 4,
        TableType::Float16 => 2,
    }
}
