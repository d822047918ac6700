//! Podman with storage of its own, and the image of the package in it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use crate::harness::tidy::Folder;
use crate::harness::{request_to, run, samples, wait_until};
use crate::machine::minimal_tree;
use crate::namespace::{Namespace, shell};
use crate::package::package;

pub const IMAGE: &str = "localhost/udp-echo";
const BASE: &str = "localhost/debian";
pub const CONTAINERFILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/packaging/container/Containerfile"
);

/// Starts process 1 of the namespaces. Podman then sees none of the host's containers, whose folder is
/// missing until podman first runs. crun refuses control groups of both versions at once. Overlays do not
/// work on every file system.
const START: &str = r#"
set -e
mkdir -p /var/lib/containers
mount --bind "$1" /var/lib/containers
for place in /run /dev/shm; do mount -t tmpfs tmpfs $place; done
if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
cd "$1"
mkdir lower upper work merged
driver=vfs
if mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged 2>/dev/null; then
    umount merged
    driver=overlay
fi
echo $driver
exec cat
"#;

/// The options of tar that leave out what Debian's slim images do not have.
const OMITTED: &str = "--exclude=./var/cache/* --exclude=./var/lib/apt/lists/* \
    --exclude=./usr/share/doc/* --exclude=./usr/share/man/* --exclude=./usr/share/locale/*";

/// A container gets the network namespace of the test, and no privilege. The limits are here because
/// podman raises them above those of this process, which needs `CAP_SYS_RESOURCE`.
const CONFINED: [&str; 9] = [
    "--detach",
    "--network=host",
    "--cgroups=disabled",
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--ulimit=nofile=1024:1024",
    "--ulimit=nproc=1024:1024",
];

/// Podman in mount and PID namespaces of its own. All its processes and mounts end with this program,
/// even when that is killed.
pub struct Podman {
    driver: String,
    init: String,
    unshare: Child,
    folder: Folder,
}

impl Podman {
    fn new() -> Self {
        let folder = Folder::new();
        let mut unshare = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", START, "sh"])
            .arg(&*folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux is installed");
        let mut driver = String::new();
        BufReader::new(unshare.stdout.take().unwrap())
            .read_line(&mut driver)
            .unwrap();
        let id = unshare.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        Self {
            driver: driver.trim_end().to_owned(),
            init: children.trim_end().to_owned(),
            unshare,
            folder,
        }
    }

    /// Podman with the image. Built once per run, on the network of this thread: it makes the Debian
    /// tree if that is missing.
    pub fn with_image() -> &'static Self {
        static PODMAN: OnceLock<Podman> = OnceLock::new();
        PODMAN.get_or_init(|| {
            let podman = Self::new();
            podman.build();
            podman
        })
    }

    /// Builds the image on a base of debootstrap, without a network.
    fn build(&self) {
        let packages = self.folder.join("packages");
        fs::create_dir(&packages).unwrap();
        let package = package();
        fs::copy(package, packages.join(package.file_name().unwrap())).unwrap();
        let base = self.folder.join("base.tar");
        shell(&format!(
            "tar -C {} {OMITTED} -cf {} .",
            minimal_tree().display(),
            base.display()
        ));
        self.run(&["import", base.to_str().unwrap(), BASE]);
        fs::remove_file(base).unwrap();
        let built = Namespace::new().inside(|| {
            self.run(&[
                "build",
                "--format=docker",
                "--isolation=chroot",
                "--network=host",
                "--layers=false",
                &format!("--build-arg=BASE={BASE}"),
                &format!("--tag={IMAGE}"),
                &format!("--file={CONTAINERFILE}"),
                packages.to_str().unwrap(),
            ])
        });
        eprintln!("{built}{}", self.run(&["images"]));
    }

    /// Starts a container in the network namespace of this thread.
    pub fn start(&'static self, options: &[&str], args: &[&str]) -> Container {
        let args = [&["run"], &CONFINED[..], options, &[IMAGE], args].concat();
        let name = self.run(&args).trim_end().to_owned();
        Container { podman: self, name }
    }

    /// Runs a container to its end. Returns its status and its log.
    pub fn run_to_end(&'static self, args: &[&str]) -> (String, String) {
        let container = self.start(&[], args);
        let status = self.run(&["wait", &container.name]);
        (status.trim_end().to_owned(), container.log())
    }

    /// Runs podman. It must succeed. Returns its output.
    pub fn run(&self, args: &[&str]) -> String {
        let (status, out, err) = self.attempt(args);
        assert!(status.success(), "podman {args:?}: {status}\n{out}{err}");
        out
    }

    fn attempt(&self, args: &[&str]) -> (ExitStatus, String, String) {
        run(self.command("podman").args(args))
    }

    /// A command in the namespaces of podman.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init, "--mount", "--pid", program])
            .env("STORAGE_DRIVER", &self.driver)
            // Without timers of systemd for the health checks.
            .env("DISABLE_HC_SYSTEMD", "true");
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        drop(self.unshare.stdin.take());
        let _ = self.unshare.wait();
    }
}

/// A running container, removed when dropped.
pub struct Container {
    podman: &'static Podman,
    name: String,
}

impl Container {
    /// Waits for a text in its log.
    pub fn wait_for_log(&self, text: &str) {
        wait_until(&format!("the container logs {text:?}"), || {
            let log = self.log();
            let state = self.inspect("{{.State.Status}}");
            assert_eq!(state, "running", "{log}");
            log.contains(text)
        });
    }

    pub fn log(&self) -> String {
        let (_, out, err) = self.podman.attempt(&["logs", &self.name]);
        out + &err
    }

    /// A field of podman-inspect(1).
    pub fn inspect(&self, format: &str) -> String {
        let text = self
            .podman
            .run(&["inspect", "--format", format, &self.name]);
        text.trim_end().to_owned()
    }

    /// A file of /proc about its first process.
    pub fn proc(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.inspect("{{.State.Pid}}"));
        let (status, out, err) = run(self.podman.command("cat").arg(path));
        assert!(status.success(), "{err}");
        out
    }

    /// Runs the health check of the image.
    pub fn is_healthy(&self) -> bool {
        let (status, ..) = self.podman.attempt(&["healthcheck", "run", &self.name]);
        status.success()
    }

    pub fn signal(&self, name: &str) {
        self.podman.run(&["kill", "--signal", name, &self.name]);
    }

    /// Stops it as podman and Kubernetes do, by SIGTERM and much later SIGKILL. Returns its status.
    pub fn stop(self) -> String {
        let start = Instant::now();
        self.podman.run(&["stop", "--time=180", &self.name]);
        eprintln!("podman stop took {:?}", start.elapsed());
        self.inspect("{{.State.ExitCode}}")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the container's log: {}", self.log());
        }
        let _ = self
            .podman
            .attempt(&["rm", "--force", "--time=0", &self.name]);
    }
}

/// The metrics of a container, from the network namespace of this thread.
pub fn metrics(address: &str) -> BTreeMap<String, f64> {
    let request = "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    let response = request_to(address.parse().unwrap(), request);
    assert_eq!(response.status, 200, "{response:?}");
    samples(&response.body)
}
