//! The systemd journal's native protocol.

use std::io;
use std::os::unix::net::UnixDatagram;

use tracing::{Event, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry;

/// The socket of journald, to which tracing-journald sends.
const PATH: &str = "/run/systemd/journal/socket";

/// The journal. A send blocks until journald reads.
pub(super) struct Journal {
    probe: UnixDatagram,
    /// Created by the first send: creating the layer sends to journald and may block.
    layer: Option<Box<dyn Subscriber + Send>>,
}

impl Journal {
    /// Looks for journald without blocking.
    pub(super) fn find() -> io::Result<Self> {
        let probe = UnixDatagram::unbound()?;
        probe.connect(PATH)?;
        Ok(Self { probe, layer: None })
    }

    /// Sends an event.
    pub(super) fn send(&mut self, event: &Event<'_>) -> io::Result<()> {
        // The layer does not report errors.
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
    // By default the layer maps INFO to Notice.
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
