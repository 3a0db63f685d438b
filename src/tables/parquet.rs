//! Apache Parquet: <https://parquet.apache.org/docs/file-format/>

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as PhysicalType, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

use super::{Cell, ColumnKind, Columns};

/// Rows of a group, which stand in memory until it is full.
const GROUP: usize = 32 * 1024;

pub struct ParquetWriter {
    columns: Columns,
    writer: SerializedFileWriter<Shared>,
    written: Shared,
    waiting: Vec<Vec<Cell>>,
}

/// What the writer has written and nobody has fetched.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ParquetWriter {
    pub fn new(columns: Columns) -> io::Result<ParquetWriter> {
        let fields = columns.iter().map(|(name, kind)| {
            let (physical, logical) = match kind {
                ColumnKind::Text => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
                ColumnKind::Integer => (PhysicalType::INT64, None),
                ColumnKind::Boolean => (PhysicalType::BOOLEAN, None),
                ColumnKind::Time => {
                    (PhysicalType::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS)))
                }
            };
            let field = Type::primitive_type_builder(name, physical)
                .with_logical_type(logical)
                .with_repetition(Repetition::OPTIONAL);
            field.build().map(Arc::new)
        });
        let fields = fields.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        let schema = Type::group_type_builder("row").with_fields(fields).build().map_err(wrong)?;
        let level = ZstdLevel::try_new(3).map_err(wrong)?;
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
        let written = Shared::default();
        let writer = SerializedFileWriter::new(written.clone(), Arc::new(schema), Arc::new(properties));
        Ok(ParquetWriter { columns, writer: writer.map_err(wrong)?, written, waiting: Vec::new() })
    }

    pub fn write(&mut self, rows: &[Vec<Cell>]) -> io::Result<Bytes> {
        for row in rows {
            self.waiting.push(row.clone());
            if self.waiting.len() == GROUP {
                self.write_group()?;
            }
        }
        Ok(self.written.take())
    }

    pub fn finish(mut self) -> io::Result<Bytes> {
        if !self.waiting.is_empty() {
            self.write_group()?;
        }
        self.writer.close().map_err(wrong)?;
        Ok(self.written.take())
    }

    fn write_group(&mut self) -> io::Result<()> {
        let rows = std::mem::take(&mut self.waiting);
        let mut group = self.writer.next_row_group().map_err(wrong)?;
        for (at, (name, kind)) in self.columns.iter().enumerate() {
            let mut column = group.next_column().map_err(wrong)?.ok_or_else(|| other(name))?;
            let cells = || rows.iter().map(|row| row.get(at).unwrap_or(&Cell::Empty));
            let levels: Vec<i16> = cells().map(|cell| i16::from(*cell != Cell::Empty)).collect();
            let there = || cells().filter(|cell| **cell != Cell::Empty);
            match kind {
                ColumnKind::Text => {
                    let values = there().map(|cell| match cell {
                        Cell::Text(text) => Ok(ByteArray::from(text.as_str())),
                        _ => Err(other(name)),
                    });
                    let values = values.collect::<io::Result<Vec<_>>>()?;
                    column
                        .typed::<ByteArrayType>()
                        .write_batch(&values, Some(&levels), None)
                        .map_err(wrong)?;
                }
                ColumnKind::Integer | ColumnKind::Time => {
                    let values = there().map(|cell| match (cell, kind) {
                        (Cell::Integer(number), ColumnKind::Integer) => Ok(*number),
                        (Cell::Time(time), ColumnKind::Time) => Ok(time.timestamp_micros()),
                        _ => Err(other(name)),
                    });
                    let values = values.collect::<io::Result<Vec<_>>>()?;
                    column.typed::<Int64Type>().write_batch(&values, Some(&levels), None).map_err(wrong)?;
                }
                ColumnKind::Boolean => {
                    let values = there().map(|cell| match cell {
                        Cell::Boolean(value) => Ok(*value),
                        _ => Err(other(name)),
                    });
                    let values = values.collect::<io::Result<Vec<_>>>()?;
                    column.typed::<BoolType>().write_batch(&values, Some(&levels), None).map_err(wrong)?;
                }
            }
            column.close().map_err(wrong)?;
        }
        group.close().map_err(wrong)?;
        Ok(())
    }
}

fn wrong(error: ParquetError) -> io::Error {
    io::Error::other(error)
}

fn other(column: &str) -> io::Error {
    io::Error::other(format!("a cell is not of the kind of its column {column}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

    #[test]
    fn what_is_written_is_read_again() {
        const COLUMNS: Columns = &[
            ("title", ColumnKind::Text),
            ("count", ColumnKind::Integer),
            ("on", ColumnKind::Boolean),
            ("at", ColumnKind::Time),
        ];
        let at = chrono::DateTime::from_timestamp_micros(1_750_000_000_123_456).unwrap();
        let rows: Vec<Vec<Cell>> = (0..GROUP as i64 + 5)
            .map(|n| match n % 3 {
                0 => vec![Cell::Empty; 4],
                _ => vec![Cell::Text(format!("Spiel Nº {n}")), n.into(), (n % 2 == 0).into(), at.into()],
            })
            .collect();
        let mut writer = ParquetWriter::new(COLUMNS).unwrap();
        let mut bytes = Vec::new();
        for some in rows.chunks(1_000) {
            bytes.extend_from_slice(&writer.write(some).unwrap());
        }
        bytes.extend_from_slice(&writer.finish().unwrap());
        let reader = SerializedFileReader::new(Bytes::from(bytes)).unwrap();
        assert_eq!(reader.metadata().num_row_groups(), 2);
        let read: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        assert_eq!(read.len(), rows.len());
        assert_eq!(read[4].get_string(0).unwrap(), "Spiel Nº 4");
        assert_eq!((read[4].get_long(1).unwrap(), read[4].get_bool(2).unwrap()), (4, true));
        assert_eq!(read[4].get_timestamp_micros(3).unwrap(), 1_750_000_000_123_456);
        assert!(read[3].get_string(0).is_err(), "empty");
        let mixed = ParquetWriter::new(COLUMNS).unwrap().finish_with(vec![vec![1_i64.into(); 4]]);
        assert!(mixed.unwrap_err().to_string().contains("title"));
    }

    impl ParquetWriter {
        fn finish_with(mut self, rows: Vec<Vec<Cell>>) -> io::Result<Bytes> {
            self.write(&rows)?;
            self.finish()
        }
    }
}
