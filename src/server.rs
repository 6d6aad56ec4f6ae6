//! Placeholder.

use crate::config::Config;

pub fn run(_: Config) -> Result<(), String> {
    Err("the server is not built yet".to_owned())
}
