//! Tables in Apache Parquet: <https://parquet.apache.org/docs/file-format/>

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as PhysicalType, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

use super::cell::{Cell, ColumnKind, Columns};
use crate::domain::money::Money;

/// Money is written as `DECIMAL(18, 4)`: no currency of ISO 4217 has more decimal places, and `MAX_MINOR_UNITS` of a
/// currency without decimal places needs 17 digits.
const MONEY_PRECISION: i32 = 18;
const MONEY_SCALE: i32 = 4;
/// Number of rows in a row group. They are held in memory until the group is full.
const GROUP: usize = 32 * 1024;

pub struct ParquetWriter {
    columns: Columns,
    writer: SerializedFileWriter<Shared>,
    written: Shared,
    waiting: Vec<Vec<Cell>>,
}

/// Bytes that the Parquet library has written and the caller has not fetched yet.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.0.lock()).into()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
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
                ColumnKind::Money => {
                    (PhysicalType::INT64, Some(LogicalType::decimal(MONEY_SCALE, MONEY_PRECISION)))
                }
                ColumnKind::Time => {
                    (PhysicalType::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS)))
                }
            };
            let field = Type::primitive_type_builder(name, physical)
                .with_logical_type(logical)
                .with_repetition(Repetition::OPTIONAL);
            let field = match kind {
                ColumnKind::Money => field.with_precision(MONEY_PRECISION).with_scale(MONEY_SCALE),
                _ => field,
            };
            field.build().map(Arc::new)
        });
        let fields = fields.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let schema = Type::group_type_builder("row").with_fields(fields).build().map_err(failed)?;
        let level = ZstdLevel::try_new(3).map_err(failed)?;
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
        let written = Shared::default();
        let writer = SerializedFileWriter::new(written.clone(), Arc::new(schema), Arc::new(properties));
        Ok(ParquetWriter { columns, writer: writer.map_err(failed)?, written, waiting: Vec::new() })
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
        self.writer.close().map_err(failed)?;
        Ok(self.written.take())
    }

    fn write_group(&mut self) -> io::Result<()> {
        let rows = std::mem::take(&mut self.waiting);
        let mut group = self.writer.next_row_group().map_err(failed)?;
        for (at, (name, kind)) in self.columns.iter().enumerate() {
            let mut column = group.next_column().map_err(failed)?.ok_or_else(|| other(name))?;
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
                        .map_err(failed)?;
                }
                ColumnKind::Integer | ColumnKind::Money | ColumnKind::Time => {
                    let values = there().map(|cell| match (cell, kind) {
                        (Cell::Integer(number), ColumnKind::Integer) => Ok(*number),
                        (Cell::Money(money), ColumnKind::Money) => {
                            scaled(*money).ok_or_else(|| io::Error::other("an amount is too large"))
                        }
                        (Cell::Time(time), ColumnKind::Time) => Ok(time.timestamp_micros()),
                        _ => Err(other(name)),
                    });
                    let values = values.collect::<io::Result<Vec<_>>>()?;
                    column.typed::<Int64Type>().write_batch(&values, Some(&levels), None).map_err(failed)?;
                }
                ColumnKind::Boolean => {
                    let values = there().map(|cell| match cell {
                        Cell::Boolean(value) => Ok(*value),
                        _ => Err(other(name)),
                    });
                    let values = values.collect::<io::Result<Vec<_>>>()?;
                    column.typed::<BoolType>().write_batch(&values, Some(&levels), None).map_err(failed)?;
                }
            }
            column.close().map_err(failed)?;
        }
        group.close().map_err(failed)?;
        Ok(())
    }
}

/// An amount in units of the fourth decimal place; `None` beyond `DECIMAL(18, 4)`.
fn scaled(money: Money) -> Option<i64> {
    let places = u32::try_from(money.currency.places()).ok()?;
    let scale = 10_i64.pow(MONEY_SCALE.unsigned_abs().checked_sub(places)?);
    let most = 10_i64.pow(MONEY_PRECISION.unsigned_abs()) - 1;
    money.minor.checked_mul(scale).filter(|amount| amount.abs() <= most)
}

fn failed(error: ParquetError) -> io::Error {
    io::Error::other(error)
}

fn other(column: &str) -> io::Error {
    io::Error::other(format!("a cell is not of the kind of its column {column}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::{Currency, MAX_MINOR_UNITS};
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

    #[test]
    fn rows_that_are_written_are_read_back() {
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

    #[test]
    fn money_is_a_decimal_whatever_its_currency() {
        let letters = || 'A'..='Z';
        let codes =
            letters().flat_map(|a| letters().flat_map(move |b| letters().map(move |c| format!("{a}{b}{c}"))));
        let currencies: Vec<Currency> = codes.filter_map(|code| code.parse().ok()).collect();
        assert!(currencies.len() > 150);
        for currency in currencies {
            let amount = |minor| scaled(Money { minor, currency });
            assert!(amount(MAX_MINOR_UNITS).is_some(), "{currency}");
            assert_eq!(amount(1), Some(10_i64.pow(4 - currency.places() as u32)));
        }
        const COLUMNS: Columns = &[("currency", ColumnKind::Text), ("price", ColumnKind::Money)];
        let rows = [("EUR", "18.49"), ("JPY", "1000000000000"), ("KWD", "0.005"), ("CLF", "1.2345")];
        let rows = rows.map(|(code, amount)| {
            let currency: Currency = code.parse().unwrap();
            let minor = currency.parse_amount(amount).unwrap();
            vec![Cell::Text(code.to_owned()), Money { minor, currency }.into()]
        });
        let bytes = ParquetWriter::new(COLUMNS).unwrap().finish_with(rows.to_vec()).unwrap();
        let reader = SerializedFileReader::new(bytes).unwrap();
        let schema = reader.metadata().file_metadata().schema_descr().column(1);
        assert_eq!((schema.type_precision(), schema.type_scale()), (18, 4));
        let read: Vec<String> =
            reader.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect();
        assert_eq!(
            read,
            [
                "{currency: \"EUR\", price: 18.4900}",
                "{currency: \"JPY\", price: 1000000000000.0000}",
                "{currency: \"KWD\", price: 0.0050}",
                "{currency: \"CLF\", price: 1.2345}",
            ]
        );
        let number = ParquetWriter::new(COLUMNS).unwrap().finish_with(vec![vec![Cell::Empty, 1_i64.into()]]);
        assert!(number.unwrap_err().to_string().contains("price"));
    }

    impl ParquetWriter {
        fn finish_with(mut self, rows: Vec<Vec<Cell>>) -> io::Result<Bytes> {
            self.write(&rows)?;
            self.finish()
        }
    }
}
