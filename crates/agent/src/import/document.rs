//! TOML of others, read by hand: with the place of everything, and in the order in which it was written, which the
//! formats read here give a meaning to.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Note, Place};
use crate::config::line_and_column;

/// A file's text and name.
#[derive(Clone, Copy)]
pub(crate) struct Source<'t> {
    pub path: &'t Path,
    pub text: &'t str,
}

impl<'t> Source<'t> {
    /// The file's tables, or what is not TOML about it.
    pub fn parse(self) -> Result<DeTable<'t>, Note> {
        let wrong = |error: toml::de::Error| Note {
            place: self.place(error.span().unwrap_or_default()),
            text: format!("not TOML: {}", error.message()),
        };
        DeTable::parse(self.text).map(Spanned::into_inner).map_err(wrong)
    }

    /// Where a part of the text stands.
    pub fn place(self, span: Range<usize>) -> Place {
        Place { file: self.path.to_owned(), at: Some(line_and_column(self.text, span.start)) }
    }
}

/// A table of a file.
#[derive(Clone, Copy)]
pub(crate) struct Table<'d> {
    pub source: Source<'d>,
    pub table: &'d DeTable<'d>,
}

/// A text with its place.
#[derive(Clone)]
pub(crate) struct Text<'d> {
    pub text: &'d str,
    pub place: Place,
}

impl<'d> Table<'d> {
    fn wrong(&self, value: &Spanned<DeValue<'_>>, key: &str, expected: &str) -> Note {
        let found = value.get_ref().type_str();
        Note {
            place: self.source.place(value.span()),
            text: format!("{key} is of the type {found}; expected {expected}"),
        }
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<Text<'d>>, Note> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        let text = value.get_ref().as_str().ok_or_else(|| self.wrong(value, key, "a text"))?;
        Ok(Some(Text { text, place: self.source.place(value.span()) }))
    }

    /// True or false; false where it is not said.
    pub fn truth(&self, key: &str) -> Result<bool, Note> {
        let Some(value) = self.table.get(key) else { return Ok(false) };
        value.get_ref().as_bool().ok_or_else(|| self.wrong(value, key, "true or false"))
    }

    /// One text, or a list of them.
    pub fn texts(&self, key: &str) -> Result<Vec<Text<'d>>, Note> {
        let Some(value) = self.table.get(key) else { return Ok(Vec::new()) };
        let list = match value.get_ref() {
            DeValue::Array(list) => list.iter().collect(),
            _ => vec![value],
        };
        list.into_iter()
            .map(|value| {
                let text = value.get_ref().as_str().ok_or_else(|| self.wrong(value, key, "a text"))?;
                Ok(Text { text, place: self.source.place(value.span()) })
            })
            .collect()
    }

    /// A value as it is.
    pub fn value(&self, key: &str) -> Option<(&'d DeValue<'d>, Place)> {
        let value = self.table.get(key)?;
        Some((value.get_ref(), self.source.place(value.span())))
    }

    /// The tables of a list of tables.
    pub fn tables(&self, key: &str) -> Result<Vec<Table<'d>>, Note> {
        let Some(value) = self.table.get(key) else { return Ok(Vec::new()) };
        let list = value.get_ref().as_array().ok_or_else(|| self.wrong(value, key, "a list of tables"))?;
        list.iter()
            .map(|element| {
                let table =
                    element.get_ref().as_table().ok_or_else(|| self.wrong(element, key, "a table"))?;
                Ok(Table { source: self.source, table })
            })
            .collect()
    }

    /// The tables of a table, with their names, in the order in which they were written.
    pub fn named_tables(&self, key: &str) -> Result<Vec<(Text<'d>, Table<'d>)>, Note> {
        let Some(value) = self.table.get(key) else { return Ok(Vec::new()) };
        let tables = value.get_ref().as_table().ok_or_else(|| self.wrong(value, key, "a table"))?;
        let mut entries: Vec<_> = tables.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        entries
            .into_iter()
            .map(|(name, value)| {
                let text = Text { text: name.get_ref().as_ref(), place: self.source.place(name.span()) };
                let table =
                    value.get_ref().as_table().ok_or_else(|| self.wrong(value, text.text, "a table"))?;
                Ok((text, Table { source: self.source, table }))
            })
            .collect()
    }

    /// The keys that are none of those, in the order in which they were written.
    pub fn others(&self, known: &[&str]) -> Vec<Text<'d>> {
        let mut others: Vec<_> =
            self.table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())).collect();
        others.sort_by_key(|key| key.span().start);
        others
            .into_iter()
            .map(|key| Text { text: key.get_ref().as_ref(), place: self.source.place(key.span()) })
            .collect()
    }

    /// The place of a key's value, or of the whole file.
    pub fn place_of(&self, key: &str) -> Place {
        let value = self.table.get(key);
        value.map_or_else(|| Place::whole(self.source.path), |value| self.source.place(value.span()))
    }
}
