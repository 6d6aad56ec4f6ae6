//! The project's own source as text, for the tests that read it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part"
)]

use std::fs;
use std::path::Path;

/// One file of the repository: its path from the top, and what it says.
pub struct Source {
    pub path: String,
    pub text: String,
}

impl Source {
    pub fn of(path: &str, text: &str) -> Self {
        Self {
            path: path.into(),
            text: text.into(),
        }
    }

    /// The text with comment lines emptied, so that line numbers stay.
    pub fn code(&self) -> String {
        let mut code = String::with_capacity(self.text.len());
        for line in self.text.lines() {
            if !line.trim_start().starts_with("//") {
                code.push_str(line);
            }
            code.push('\n');
        }
        code
    }

    /// `path:line: word` for each of `words` in the code; comments may name them.
    pub fn code_words(&self, words: &[&str]) -> Vec<String> {
        words_in(&self.path, &self.code(), words)
    }

    /// `path:line: word` for each of `words` anywhere, comments included.
    pub fn words(&self, words: &[&str]) -> Vec<String> {
        words_in(&self.path, &self.text, words)
    }
}

fn words_in(path: &str, text: &str, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for word in words.iter().filter(|word| line.contains(**word)) {
            found.push(format!("{path}:{}: {word}", index + 1));
        }
    }
    found
}

/// Every Rust file below `folder`, in the order of their paths; none if there is no such folder.
pub fn rust_files(folder: &str) -> Vec<Source> {
    files(folder, |path| path.ends_with(".rs"))
}

/// The file at `path`.
pub fn file(path: &str) -> Source {
    let text = fs::read_to_string(top().join(path));
    Source {
        path: path.into(),
        text: text.unwrap_or_else(|error| panic!("{path}: {error}")),
    }
}

/// Every file below `folder` whose path is wanted.
pub fn files(folder: &str, wanted: fn(&str) -> bool) -> Vec<Source> {
    let mut sources = Vec::new();
    collect(folder, wanted, &mut sources);
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn collect(folder: &str, wanted: fn(&str) -> bool, sources: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(top().join(folder)) else {
        return;
    };
    for entry in entries {
        let entry = entry.expect("a folder of the repository is readable");
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            collect(&path, wanted, sources);
        } else if wanted(&path) {
            sources.push(file(&path));
        }
    }
}

/// Where the repository lies.
pub fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Fails with every finding on a line of its own.
#[track_caller]
pub fn assert_none(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}
