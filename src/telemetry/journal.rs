//! The systemd journal, in its own protocol.

use std::io;
use std::os::unix::net::UnixDatagram;

use tracing::{Event, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry;

/// Where journald receives: tracing-journald sends there.
const PATH: &str = "/run/systemd/journal/socket";

/// The journal. What is sent there waits for as long as journald takes.
pub(super) struct Journal {
    probe: UnixDatagram,
    /// Made when there is something to send: that sends too.
    layer: Option<Box<dyn Subscriber + Send>>,
}

impl Journal {
    /// The journal, if it is there. Does not wait.
    pub(super) fn find() -> io::Result<Self> {
        let probe = UnixDatagram::unbound()?;
        probe.connect(PATH)?;
        Ok(Self { probe, layer: None })
    }

    /// Sends an event.
    pub(super) fn send(&mut self, event: &Event<'_>) -> io::Result<()> {
        // The layer does not say that it could not.
        self.probe.connect(PATH)?;
        let layer = match &self.layer {
            Some(layer) => layer,
            None => self.layer.insert(Box::new(registry().with(layer()?))),
        };
        layer.event(event);
        Ok(())
    }
}

fn layer() -> io::Result<tracing_journald::Layer> {
    let layer = tracing_journald::Layer::new()?;
    // The default makes notices of what is information.
    let priorities = PriorityMappings {
        error: Priority::Error,
        warn: Priority::Warning,
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
    };
    Ok(layer
        .with_syslog_identifier("udp-echo".into())
        .with_priority_mappings(priorities))
}
