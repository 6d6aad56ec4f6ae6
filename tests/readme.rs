//! The README says what the program says: its settings, its error codes, its metrics, its own parts.

mod source;

use std::collections::BTreeSet;

use pushring::close_reason::CloseReason;
use pushring::config::describe::settings_markdown;
use pushring::config::reload::RESTART_SETTINGS;
use pushring::metrics::{Metrics, write_exposition};

const SETTINGS_BEGIN: &str = "<!-- settings: what `pushring settings` prints -->\n\n";
const SETTINGS_END: &str = "\n<!-- end of settings -->\n";

/// Where refusals are worded. A code is a string literal of two or more words in snake case.
const REFUSAL_FILES: &[&str] = &[
    "src/api/refusal.rs",
    "src/auth/error.rs",
    "src/proto/http_body.rs",
    "src/proto/http_request/error.rs",
    "src/proto/payload.rs",
    "src/proto/ws_handshake.rs",
    "src/transport/goodbye.rs",
];

/// What people read, beside the source.
const PAGES: &[&str] = &["README.md", "bench/README.md", "tests/README.md"];

const PROSE_WIDTH_MAX: usize = 120;

fn readme() -> String {
    page_text("README.md")
}

fn page_text(path: &str) -> String {
    std::fs::read_to_string(source::top().join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_settings_are_those_of_the_program() {
    let readme = readme();
    let (_, rest) = readme
        .split_once(SETTINGS_BEGIN)
        .expect("the settings begin");
    let (settings, _) = rest.split_once(SETTINGS_END).expect("the settings end");
    assert!(
        settings == settings_markdown(),
        "README.md has other settings than the program: replace what is between the two markers by what this prints\n  \
         cargo run --quiet -- settings"
    );
}

#[test]
fn every_code_of_a_refusal_is_in_the_table_of_errors_and_no_other() {
    let readme = readme();
    let listed: BTreeSet<&str> = error_rows(section(&readme, "\n## Errors\n"))
        .flat_map(|[_, codes, _]| words(codes))
        .filter(|word| is_code(word))
        .collect();
    let mut known = BTreeSet::new();
    for (path, code) in refusal_sources() {
        let before = known.len();
        known.extend(
            code.split('"')
                .filter(|text| is_code(text))
                .map(str::to_owned),
        );
        assert!(known.len() > before, "{path} words no refusal");
    }
    assert_same("codes of refusals", listed, &known);
}

#[test]
fn the_errors_stand_in_the_order_of_status_and_code() {
    let readme = readme();
    let mut found = Vec::new();
    for table in section(&readme, "\n## Errors\n").split("\n\n") {
        let keys: Vec<_> = error_rows(table)
            .map(|[status, codes, _]| (status, words(codes).find(|word| is_code(word))))
            .collect();
        let misplaced = keys.windows(2).filter(|pair| pair[0] >= pair[1]);
        found.extend(misplaced.map(|pair| format!("{:?} behind {:?}", pair[1], pair[0])));
    }
    source::assert_none(found, "errors of README.md that are not where one looks");
}

#[test]
fn an_error_has_the_sentence_of_the_program() {
    let readme = readme();
    let errors = section(&readme, "\n## Errors\n");
    let table = errors
        .split("\n\n")
        .find(|table| table.starts_with("| status | code |"))
        .expect("the table of errors");
    let said: String = refusal_sources()
        .map(|(_, code)| code.split("\\\n").map(str::trim_start).collect::<String>())
        .collect();
    let mut found = Vec::new();
    for [_, code, text] in error_rows(table) {
        // A WebSocket that is open already is told in its close frame, in other words.
        if text.contains("told by close code") {
            continue;
        }
        let text = text.replace("\\*", "*");
        let sentences = text.split_inclusive(". ").map(str::trim_end);
        let unknown = sentences.filter(|sentence| !said.contains(sentence));
        found.extend(unknown.map(|sentence| format!("{code}: {sentence}")));
    }
    source::assert_none(found, "sentences of README.md that no refusal has");
}

#[test]
fn every_metric_is_in_the_readme_and_no_other() {
    let mut exposition = String::new();
    let metrics = Metrics {
        backplane: Some(Box::default()),
        ..Metrics::default()
    };
    write_exposition(&mut exposition, &[metrics]);
    let known: BTreeSet<String> = exposition
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .map(str::to_owned)
        .chain(["pushring_refusals_total".to_owned()])
        .collect();
    let readme = readme();
    let listed = words(&readme)
        .filter(|word| word.starts_with("pushring_"))
        // What a backend calls at Redis.
        .filter(|word| *word != "pushring_publish")
        .collect();
    assert_same("metrics", listed, &known);
}

#[test]
fn every_reason_of_an_end_is_in_the_readme() {
    let readme = readme();
    let missing = CloseReason::ALL
        .into_iter()
        .map(|reason| format!("`{}`", reason.label()))
        .filter(|label| !readme.contains(label))
        .collect();
    source::assert_none(missing, "reasons that README.md leaves out");
}

#[test]
fn every_setting_that_needs_a_restart_is_named_as_such() {
    let readme = readme();
    let (_, rest) = readme
        .split_once("\n### Reload\n")
        .expect("the section is there");
    let section = rest.split("\n### ").next().unwrap_or(rest);
    let missing = RESTART_SETTINGS
        .iter()
        .filter(|name| !section.contains(&format!("`{name}`")))
        .map(|name| (*name).to_owned())
        .collect();
    source::assert_none(
        missing,
        "settings that need a restart, and README.md does not say so",
    );
}

#[test]
fn every_file_that_is_named_is_there() {
    let mut missing = Vec::new();
    for page in PAGES {
        let text = page_text(page);
        let named = text
            .split('`')
            .flat_map(|quoted| quoted.split(' ').next())
            .filter(|path| {
                ["src/", "scripts/", "tests/", "bench/", ".ci/"]
                    .iter()
                    .any(|top| path.starts_with(top))
            })
            .filter(|path| !source::top().join(path).exists());
        missing.extend(named.map(|path| format!("{page}: {path}")));
    }
    source::assert_none(missing, "files that are named and nobody has");
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut broken = Vec::new();
    for page in PAGES {
        let text = page_text(page);
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
            .filter(|link| !link.starts_with("http"));
        let folder = page.strip_suffix("README.md").unwrap_or_default();
        for link in links {
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => page.to_string(),
                _ => format!("{folder}{path}"),
            };
            let leads_there = source::top().join(&target).exists()
                && (heading.is_empty() || anchors(&page_text(&target)).contains(heading));
            if !leads_there {
                broken.push(format!("{page}: {link}"));
            }
        }
    }
    source::assert_none(broken, "links that lead nowhere");
}

/// A table's row and a block of code are as wide as they are.
#[test]
fn prose_is_wrapped() {
    let mut found = Vec::new();
    for page in PAGES {
        let text = page_text(page);
        let (mut is_code, mut is_generated) = (false, false);
        for (index, line) in text.lines().enumerate() {
            is_code ^= line.starts_with("```");
            is_generated |= line == SETTINGS_BEGIN.trim();
            is_generated &= line != SETTINGS_END.trim();
            let width = line.chars().count();
            if !is_code && !is_generated && !line.starts_with('|') && width > PROSE_WIDTH_MAX {
                found.push(format!("{page}:{}: {width} columns", index + 1));
            }
        }
    }
    source::assert_none(found, "a line is too wide");
}

/// Status, code or codes, and text of each row.
fn error_rows(text: &str) -> impl Iterator<Item = [&str; 3]> {
    text.lines().filter_map(|line| {
        let mut cells = line
            .strip_prefix("| ")?
            .strip_suffix(" |")?
            .splitn(3, " | ");
        let row = [cells.next()?, cells.next()?, cells.next()?];
        row[0].parse::<u16>().is_ok().then_some(row)
    })
}

/// Path and code of each file that words refusals, without its tests.
fn refusal_sources() -> impl Iterator<Item = (&'static str, String)> {
    REFUSAL_FILES.iter().map(|path| {
        let text = std::fs::read_to_string(source::top().join(path)).expect("a source file");
        let code = source::Source::of(path, &text).code();
        let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
        (*path, code.to_owned())
    })
}

/// From `heading` to the next one of its level.
fn section<'a>(readme: &'a str, heading: &str) -> &'a str {
    let (_, rest) = readme.split_once(heading).expect("the section is there");
    rest.split("\n## ").next().unwrap_or(rest)
}

fn is_code(text: &str) -> bool {
    text.contains('_')
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

fn anchors(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.starts_with("##"))
        .map(|line| anchor(line.trim_start_matches('#').trim()))
        .collect()
}

/// As the common renderers of Markdown name a heading.
fn anchor(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[track_caller]
fn assert_same(what: &str, listed: BTreeSet<&str>, known: &BTreeSet<String>) {
    let missing = known.iter().filter(|one| !listed.contains(one.as_str()));
    let missing = missing.map(|one| format!("{one} is missing"));
    let unknown = listed.iter().filter(|one| !known.contains(**one));
    let unknown = unknown.map(|one| format!("{one} is nothing that the program has"));
    let found = missing.chain(unknown).collect();
    source::assert_none(found, &format!("{what} in README.md"));
}
