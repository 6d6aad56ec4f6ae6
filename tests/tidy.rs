//! House rules that a reader should not have to check by eye.

mod source;

use source::Source;

/// The one file that talks to the kernel's ring.
const UNSAFE_FILE: &str = "src/shard/ring.rs";

/// Past this a file has more than one reason to change.
const FILE_LINES_MAX: usize = 700;

/// A comment wider than this wraps in a side-by-side diff.
const COMMENT_WIDTH_MAX: usize = 120;

/// What is unfinished, forgotten or says nothing. Written in halves, so that this file passes its own test.
const BANNED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("HA", "CK"),
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("db", "g!("),
    concat!("hel", "per"),
    concat!("Hel", "per"),
    concat!("#[ig", "nore"),
];

const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "LICENSE",
    "README.md",
    "bench",
    "scripts",
    "src",
    "tests",
];

/// Where modules begin. Under `tests` they are parted by what Cargo and `#[path]` ask for.
const ROOTS: &[&str] = &["src", "bench/src", "bench/micro"];

/// Every file that people write here, whatever its language.
fn written_files() -> Vec<Source> {
    let is_text = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        let is_program = path.starts_with("scripts/") && !name.contains('.');
        // What a measurement has printed is as long as it is.
        let is_result = path.starts_with("bench/results/");
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
        let is_source =
            ["rs", "py", "mjs", "js", "sh", "md", "toml", "lua", "html"].contains(&ending);
        !is_result && (is_program || is_source)
    };
    ["src", "bench", "tests", "scripts"]
        .iter()
        .flat_map(|folder| source::files(folder, is_text))
        .collect()
}

#[test]
fn unsafe_code_is_in_one_file() {
    let mut found = Vec::new();
    for source in source::rust_files("src") {
        let is_here = !unsafe_lines(&source).is_empty();
        if source.path != UNSAFE_FILE {
            found.extend(unsafe_lines(&source));
        } else if !is_here {
            found.push(format!(
                "{UNSAFE_FILE}:1: holds no unsafe code; forbid it and drop the exception here"
            ));
        }
    }
    source::assert_none(found, "unsafe code outside its file");
}

/// The keyword, not the names of lints that contain it.
fn unsafe_lines(source: &Source) -> Vec<String> {
    let masked = source.code().replace("unsafe_", "");
    Source::of(&source.path, &masked).code_words(&["unsafe"])
}

#[test]
fn every_file_says_first_what_it_is() {
    let found = source::rust_files("src")
        .iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| format!("{}:1: the first line is not a //! sentence", source.path))
        .collect();
    source::assert_none(found, "a file without a module doc");
}

/// A folder directly below a root has its `mod.rs`; deeper, the parts of `x.rs` are in `x/`.
#[test]
fn a_module_is_where_its_depth_says() {
    let mut found = Vec::new();
    for root in ROOTS {
        let paths: Vec<String> = source::rust_files(root)
            .into_iter()
            .map(|source| source.path)
            .collect();
        found.extend(misplaced(root, &paths));
    }
    source::assert_none(found, "a module is not where its depth says");
}

#[test]
fn planted_modules_are_found() {
    let check = |paths: &[&str], want: &[&str]| {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        assert_eq!(misplaced("src", &paths), want, "{paths:?}");
    };
    check(
        &["src/a.rs", "src/b/mod.rs", "src/b/c.rs", "src/b/c/d.rs"],
        &[],
    );
    check(
        &["src/a.rs", "src/a/b.rs"],
        &["src/a.rs:1: belongs into src/a/mod.rs"],
    );
    check(
        &["src/a/mod.rs", "src/a/b/mod.rs"],
        &["src/a/b/mod.rs:1: belongs into src/a/b.rs"],
    );
}

/// Folders whose parts nobody can guess: their `mod.rs` begins with a map.
const MAPPED: &[&str] = &["src/shard", "src/transport", "src/backplane"];

#[test]
fn a_map_names_every_file_of_its_folder() {
    let mut found = Vec::new();
    for folder in MAPPED {
        let sources = source::rust_files(folder);
        let map = source::file(&format!("{folder}/mod.rs")).text;
        let map: Vec<&str> = map.lines().take_while(|it| it.starts_with("//!")).collect();
        let map = map.join("\n");
        for source in sources {
            let name = source
                .path
                .trim_start_matches(folder)
                .trim_end_matches(".rs");
            let is_part = !name[1..].contains('/') && !["/mod", "/tests"].contains(&name);
            if is_part && !map.contains(&format!("`{}`", &name[1..])) {
                found.push(format!("{}:1: is not in the map", source.path));
            }
        }
    }
    source::assert_none(found, "a file that its folder's mod.rs does not name");
}

fn misplaced(root: &str, paths: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for path in paths {
        let Some(module) = path.strip_suffix(".rs") else {
            continue;
        };
        let depth = path.matches('/').count() - root.matches('/').count() - 1;
        let has_parts = || {
            let folder = format!("{module}/");
            paths.iter().any(|path| path.starts_with(&folder))
        };
        if depth == 0 && has_parts() {
            found.push(format!("{path}:1: belongs into {module}/mod.rs"));
        } else if depth > 1
            && let Some(folder) = module.strip_suffix("/mod")
        {
            found.push(format!("{path}:1: belongs into {folder}.rs"));
        }
    }
    found
}

#[test]
fn no_file_outgrows_its_reason() {
    let found = written_files()
        .iter()
        .filter(|source| source.text.lines().count() > FILE_LINES_MAX)
        .map(|source| {
            format!(
                "{}:{FILE_LINES_MAX}: {} lines",
                source.path,
                source.text.lines().count()
            )
        })
        .collect();
    source::assert_none(found, "a file is too long");
}

#[test]
fn no_comment_is_too_wide() {
    let mut found = Vec::new();
    for source in ["src", "bench", "tests"]
        .iter()
        .flat_map(|folder| source::rust_files(folder))
    {
        for (index, line) in source.text.lines().enumerate() {
            let width = line.chars().count();
            if line.trim_start().starts_with("//") && width > COMMENT_WIDTH_MAX {
                found.push(format!("{}:{}: {width} columns", source.path, index + 1));
            }
        }
    }
    source::assert_none(found, "a comment is too wide");
}

#[test]
fn no_banned_word_is_left() {
    let found = written_files()
        .iter()
        .flat_map(|source| source.words(BANNED))
        .collect();
    source::assert_none(found, "a banned word");
}

/// Dot files and build output aside.
#[test]
fn the_top_level_holds_what_the_map_says() {
    let names = source::top()
        .read_dir()
        .expect("the repository is readable");
    let found = names
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| {
            !name.starts_with('.') && name != "target" && !TOP_LEVEL.contains(&name.as_str())
        })
        .map(|name| format!("{name}:1: does not belong to the top level"))
        .collect();
    source::assert_none(found, "the top level");
}
