//! The history log as bytes: what stands in its files, and what they say when they are read again. Pure.
//!
//! A log is a sequence of files that one shard writes, one after the other. A file begins with [`record::FILE_HEAD`]
//! and [`record::Entry::Begin`]; then come the facts of the shard's hub in the order of their happening. Now and then
//! everything is told anew at the beginning of a new file, and when that is complete, the files before it are needless.
#![forbid(unsafe_code)]

pub mod reader;
pub mod record;

#[cfg(test)]
mod tests;
