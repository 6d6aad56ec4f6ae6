//! Positions and cursors: what is accepted has exactly one spelling.

use pushring::hub::position::{Position, parse_cursor, write_cursor};

pub(crate) fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    if let Some(position) = Position::parse(text) {
        assert_eq!(position.text().as_str(), text);
        assert_eq!(position.to_string(), text);
    }
    let n_parts = text.split(',').count();
    let naive: Option<Vec<_>> = text.split(',').map(Position::parse).collect();
    for n_channels in [1, n_parts, n_parts + 1] {
        let positions = parse_cursor(text, n_channels);
        assert_eq!(positions, naive.clone().filter(|_| n_channels == n_parts));
        if let Some(positions) = positions {
            let mut written = String::new();
            write_cursor(&mut written, positions);
            assert_eq!(written, text);
        }
    }
}
