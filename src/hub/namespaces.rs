//! What the channels of a home share, and how they are found by name.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::config::{Config, Namespace};
use crate::hub::message::ChannelName;

/// The namespaces of a configuration, each shared by its channels.
#[derive(Debug)]
pub struct Namespaces(HashMap<String, Arc<Namespace>>);

impl Namespaces {
    pub fn new(config: &Config) -> Self {
        let shared =
            |(name, namespace): (&String, &Namespace)| (name.clone(), Arc::new(namespace.clone()));
        Self(config.namespaces.iter().map(shared).collect())
    }

    /// The channel's namespace; one that is not configured is as the one without a name.
    pub fn of(&self, name: &ChannelName) -> Arc<Namespace> {
        let own = self.0.get(name.namespace());
        let namespace = own.or_else(|| self.0.get(""));
        namespace
            .expect("a configuration has the namespace \"\"")
            .clone()
    }
}

/// The channels whose names begin with `prefix`, in the order of names, behind the name `after`.
pub fn page<'a>(
    by_name: &'a BTreeMap<ChannelName, u32>,
    prefix: &'a str,
    after: Option<&'a str>,
) -> impl Iterator<Item = usize> + 'a {
    let start = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    by_name
        .range::<str, _>((start, Bound::Unbounded))
        .take_while(move |(name, _)| name.as_str().starts_with(prefix))
        .map(|(_, &index)| index as usize)
}
