//! The targets of the monitor, from its file and the command line.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::{self, Table};
use super::settings::{Set, Settings, shown_mode};
use crate::address::Family;
use crate::cli::key_file;
use crate::cli::probe::Target;
use crate::cli::probe::stamp::{PORT, key_of, size_fault};
use crate::cli::probe::values::REQUEST_SIZE;
use crate::monitor::{MAX_ADDRESSES, TargetSettings};
use crate::probe::stamp::{Padding, StampRequests};
use crate::probe::wire::HEADER_BYTES;
use crate::reflect::Mode;
use crate::reflect::stamp::{HmacKey, StampKeys};
use crate::udp::IpOptions;

/// The reason why the targets cannot be used, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnusableTargets(String);

impl From<String> for UnusableTargets {
    fn from(message: String) -> Self {
        Self(message)
    }
}

/// An error in the file, or on the command line.
#[derive(Debug)]
pub(super) struct Fault {
    /// The line in the file; 0 is the command line.
    pub(super) line: usize,
    pub(super) message: String,
}

/// The defaults of `udp-echo probe`.
const SECOND: Duration = Duration::from_secs(1);
const SIZE: u16 = 64;

/// Reads the targets of a file, and adds those of the command line.
///
/// # Errors
/// If the file or a target cannot be used, or if there is no target.
pub(super) fn read(
    file: Option<&Path>,
    added: &[Target],
) -> Result<Vec<TargetSettings>, UnusableTargets> {
    let document = file.map(document::read).transpose()?.unwrap_or_default();
    let path = file.map(|file| file.display().to_string());
    let path = path.as_deref();
    let located = |fault: Fault| match path {
        Some(path) if fault.line > 0 => {
            UnusableTargets(format!("{path}:{}: {}", fault.line, fault.message))
        }
        _ => UnusableTargets(fault.message),
    };
    let defaults = defaults(&document.defaults).map_err(located)?;
    match document.targets.len() + added.len() {
        0 => {
            return Err(UnusableTargets(match path {
                Some(path) => {
                    format!("no target: add one to {path} or name it on the command line")
                }
                None => {
                    "no target: name one on the command line, or in a file with --config".into()
                }
            }));
        }
        count if count > MAX_ADDRESSES => {
            return Err(UnusableTargets(format!(
                "cannot probe {count} targets: at most {MAX_ADDRESSES} are possible; remove some"
            )));
        }
        _ => {}
    }
    let mut reader = Reader {
        folder: file.and_then(Path::parent).unwrap_or(Path::new("")),
        defaults,
        keys: HashMap::new(),
        names: HashMap::new(),
        path: path.unwrap_or_default(),
    };
    let of_file = document.targets.iter().map(|table| {
        let own = Settings::of(table)?;
        match own.address.clone() {
            Some(address) => Ok((own, address)),
            None => Err(Fault {
                line: table.line,
                message: "this target has no address; add address = \"HOST[:PORT]\"".into(),
            }),
        }
    });
    let added = added.iter().map(|target| {
        let address = Set {
            value: target.clone(),
            line: 0,
            shown: target.text().to_owned(),
        };
        Ok((Settings::default(), address))
    });
    of_file
        .chain(added)
        .map(|target| target.and_then(|(own, address)| reader.target(&own, address)))
        .map(|target| target.map_err(located))
        .collect()
}

/// The settings of `[defaults]`.
fn defaults(table: &Table) -> Result<Settings, Fault> {
    for key in ["name", "address"] {
        if let Some(entry) = table.entries.get(key) {
            return Err(Fault {
                line: entry.line,
                message: format!(
                    "cannot use {key} in [defaults]: each target has its own; move it to a \
                     [[target]]"
                ),
            });
        }
    }
    Settings::of(table)
}

/// Completes targets.
struct Reader<'a> {
    /// The folder of the file. Relative paths in the file start there.
    folder: &'a Path,
    defaults: Settings,
    /// The key files that were read.
    keys: HashMap<PathBuf, StampKeys>,
    /// The line of each name, and whether the name was set.
    names: HashMap<String, (usize, bool)>,
    /// The path of the file, for errors.
    path: &'a str,
}

/// The shortest interval, and the most requests of a target that wait for replies: each takes memory.
const SHORTEST: Duration = Duration::from_micros(10);
const MOST_IN_FLIGHT: u128 = 2_000_000;

/// The first of both settings that is set.
fn first<T: Clone>(own: Option<&Set<T>>, default: Option<&Set<T>>) -> Option<T> {
    own.or(default).map(|set| set.value.clone())
}

impl Reader<'_> {
    /// Completes a target by the defaults, and checks the settings together.
    fn target(&mut self, own: &Settings, address: Set<Target>) -> Result<TargetSettings, Fault> {
        let name = self.unique_name(own, &address)?;
        let mut target = address.value;
        let defaults = &self.defaults;
        let mode = first(own.mode.as_ref(), defaults.mode.as_ref()).unwrap_or(Mode::Exchange);
        if mode == Mode::Stamp {
            target.use_port(PORT);
        }
        if target.host_port().is_multicast() {
            return Err(Fault {
                line: address.line,
                message: format!(
                    "cannot use {}: reflectors refuse multicast; use the address of one reflector",
                    address.shown
                ),
            });
        }
        let family = self.family(own, &name)?;
        let host_port = target.host_port();
        if !host_port.needs_resolver() && host_port.resolve_all(family).is_err() {
            return Err(Fault {
                line: address.line,
                message: format!(
                    "cannot use {}: it is no address of the family that the target or its source has",
                    address.shown
                ),
            });
        }
        let stamp = match mode {
            Mode::Stamp => Some(self.stamp(own, &name)?),
            mode => {
                self.check_without_stamp(own, mode, &name)?;
                None
            }
        };
        let defaults = &self.defaults;
        let interval = first(own.interval.as_ref(), defaults.interval.as_ref()).unwrap_or(SECOND);
        let wait = first(own.wait.as_ref(), defaults.wait.as_ref()).unwrap_or(SECOND);
        if interval < SHORTEST || wait.as_nanos() / interval.as_nanos() > MOST_IN_FLIGHT {
            return Err(Fault {
                line: address.line,
                message: format!(
                    "cannot use interval {interval:?} with wait {wait:?}: at least 10us, and at most \
                     {MOST_IN_FLIGHT} requests in flight, are possible"
                ),
            });
        }
        let size = first(own.size.as_ref(), defaults.size.as_ref()).unwrap_or(SIZE);
        let dscp = first(own.dscp.as_ref(), defaults.dscp.as_ref());
        let is_set = |own: Option<&Set<bool>>, default| first(own, default).unwrap_or(false);
        Ok(TargetSettings {
            name,
            address: target.host_port().clone(),
            mode,
            interval,
            flows: first(own.flows.as_ref(), defaults.flows.as_ref())
                .unwrap_or(1)
                .into(),
            size: stamp.as_ref().map_or(size.into(), |stamp| stamp.size),
            wait,
            family,
            all_addresses: is_set(own.all_addresses.as_ref(), defaults.all_addresses.as_ref()),
            per_flow: is_set(own.per_flow.as_ref(), defaults.per_flow.as_ref()),
            source: first(own.source.as_ref(), defaults.source.as_ref()),
            ip: IpOptions {
                traffic_class: dscp.map(|dscp| dscp << 2),
                ttl: first(own.ttl.as_ref(), defaults.ttl.as_ref()),
                fragmentation: None,
            },
            stamp,
        })
    }

    /// The name of a target: its address as it was written, unless it is set.
    fn unique_name(&mut self, own: &Settings, address: &Set<Target>) -> Result<String, Fault> {
        let (name, line) = match &own.name {
            Some(name) => (name.value.clone(), name.line),
            None => (address.value.text().trim().to_owned(), address.line),
        };
        let is_named = own.name.is_some();
        let Some((other, other_is_named)) = self.names.insert(name.clone(), (line, is_named))
        else {
            return Ok(name);
        };
        let (place, same) = match (other, is_named || other_is_named) {
            (0, _) => ("the command line".to_owned(), "the same target"),
            (other, true) if line == 0 => (format!("{}:{other}", self.path), "the same name"),
            (other, false) if line == 0 => (format!("{}:{other}", self.path), "the same address"),
            (other, true) => (format!("line {other}"), "the same name"),
            (other, false) => (format!("line {other}"), "the same address"),
        };
        let remedy = match (other, is_named || other_is_named) {
            (0, _) => "remove one",
            (_, true) => "use another name",
            (_, false) => "add a name to one of them",
        };
        Err(Fault {
            line,
            message: format!("cannot add target {name:?} twice: {place} has {same}; {remedy}"),
        })
    }

    /// The family of a target's addresses. The source's is the only possible one.
    fn family(&self, own: &Settings, name: &str) -> Result<Family, Fault> {
        let family = own.family.as_ref().or(self.defaults.family.as_ref());
        let source = own.source.as_ref().or(self.defaults.source.as_ref());
        let of_source = source.and_then(|source| Some((source, source.value.address?)));
        let Some((source, address)) = of_source else {
            return Ok(family.map_or(Family::Any, |family| family.value));
        };
        let of_source = Family::of(address);
        match family {
            Some(family) if family.value != Family::Any && family.value != of_source => {
                Err(Fault {
                    line: source.line,
                    message: format!(
                        "cannot use {} with {} for target {name:?}: it is an address of the other \
                     family; remove one",
                        source.shown, family.shown
                    ),
                })
            }
            _ => Ok(of_source),
        }
    }

    /// Rejects settings that only STAMP has.
    fn check_without_stamp(&self, own: &Settings, mode: Mode, name: &str) -> Result<(), Fault> {
        let mode = shown_mode(mode);
        let ssid = own.ssid.as_ref().map(|set| (set.line, &set.shown));
        let key_file = own.key_file.as_ref().map(|set| (set.line, &set.shown));
        if let Some((line, shown)) = ssid.or(key_file) {
            return Err(Fault {
                line,
                message: format!(
                    "cannot use {shown} with {mode} for target {name:?}: it is for STAMP; add \
                     mode = \"stamp\""
                ),
            });
        }
        match own.size.as_ref().or(self.defaults.size.as_ref()) {
            Some(size) if usize::from(size.value) < HEADER_BYTES => Err(Fault {
                line: size.line,
                message: format!(
                    "cannot use {} with {mode} for target {name:?}: {REQUEST_SIZE}",
                    size.shown
                ),
            }),
            _ => Ok(()),
        }
    }

    /// The requests of STAMP mode.
    fn stamp(&mut self, own: &Settings, name: &str) -> Result<StampRequests, Fault> {
        let ssid = own.ssid.as_ref().or(self.defaults.ssid.as_ref());
        let key_file = own.key_file.as_ref().or(self.defaults.key_file.as_ref());
        let size = own.size.as_ref().or(self.defaults.size.as_ref());
        let mut requests = StampRequests {
            size: 0,
            ssid: ssid.map_or(0, |ssid| ssid.value),
            is_authenticated: key_file.is_some(),
            key: None,
            class_of_service: None,
            padding: Padding::default(),
        };
        let Some(size) = size else {
            requests.size = requests.least();
            requests.key = self.key(own, requests.ssid)?;
            return Ok(requests);
        };
        requests.size = size.value.into();
        let base = requests.base();
        let fault = match ssid.filter(|_| requests.size < base) {
            Some(ssid) => Some(format!(
                "cannot use {} with {} for target {name:?}: requests below {base} bytes have none; \
                 remove one",
                ssid.shown, size.shown
            )),
            None => size_fault(&requests, None)
                .map(|fault| format!("cannot use {} for target {name:?}: {fault}", size.shown)),
        };
        if let Some(message) = fault {
            return Err(Fault {
                line: size.line,
                message,
            });
        }
        requests.key = self.key(own, requests.ssid)?;
        Ok(requests)
    }

    /// The key of a session, if there is a key file. Each file is read once.
    fn key(&mut self, own: &Settings, ssid: u16) -> Result<Option<HmacKey>, Fault> {
        let Some(file) = own.key_file.as_ref().or(self.defaults.key_file.as_ref()) else {
            return Ok(None);
        };
        let path = self.folder.join(&file.value);
        let fault = |error: key_file::UnusableKeyFile| Fault {
            line: file.line,
            message: error.to_string(),
        };
        if !self.keys.contains_key(&path) {
            let keys = key_file::read(&path).map_err(fault)?;
            self.keys.insert(path.clone(), keys);
        }
        let key = self.keys.get(&path).map(|keys| key_of(keys, &path, ssid));
        key.transpose().map_err(fault)
    }
}
