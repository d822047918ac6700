use std::sync::Mutex;

use super::*;
use crate::monitor::figures::Figures;
use crate::reflect::Mode;

#[test]
fn changed_target_keeps_addresses_of_the_same_name() {
    let settings = TargetSettings::example("a", "name.invalid:7", Mode::Echo);
    let mut target = Target::new(Arc::new(settings.clone()), 1);
    let address: SocketAddr = "192.0.2.1:7".parse().unwrap();
    let series = Series {
        target: "a".into(),
        address: "192.0.2.1:7".into(),
        mode: Mode::Echo,
        flows: 0,
        figures: Arc::new(Mutex::new(Figures::new(Mode::Echo))),
        recent: Arc::default(),
    };
    target.probed.insert(address, Probed { id: 1, series });
    let other = TargetSettings {
        flows: 8,
        ..settings.clone()
    };
    assert_eq!(target.addresses_for(&other), [address]);
    for other in [
        TargetSettings::example("a", "other.invalid:7", Mode::Echo),
        TargetSettings {
            family: Family::Ipv4,
            ..settings
        },
    ] {
        assert!(target.addresses_for(&other).is_empty());
    }
}
