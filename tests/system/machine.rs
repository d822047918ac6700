//! A Debian with systemd, booted in a container, with a network of its own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::debian::tree;
pub use crate::debian::{DEBIAN_12, DEBIAN_13, Debian, minimal_tree};
use crate::harness::{client, receive, request_to, run, samples, total, wait_until};
use crate::namespace::shell;

/// Kept between runs, as debootstrap and the build of other programs are slow.
pub const KEPT: &str = "/var/cache/udp-echo-test";
/// The deadline of a boot on a busy machine.
const BOOT: Duration = Duration::from_secs(90);

/// The addresses of the units' sockets.
pub const ECHO: &str = "127.0.0.1:9999";
pub const METRICS: &str = "127.0.0.1:9862";

/// A booted machine, removed when dropped. Only one runs at a time: without namespaces for control
/// groups, machines would share them.
pub struct Machine {
    nspawn: Child,
    init: Pid,
    tree: PathBuf,
    folder: PathBuf,
    _turn: File,
}

impl Machine {
    /// Boots a new machine, of the oldest release that the package is for.
    pub fn boot() -> Self {
        Self::boot_release(&DEBIAN_12)
    }

    pub fn boot_release(debian: &Debian) -> Self {
        Self::with_folder(debian, "root")
    }

    /// Boots a new machine that can attach XDP programs.
    pub fn boot_with_bpf() -> Self {
        Self::with_folder(&DEBIAN_12, "bpf")
    }

    fn with_folder(debian: &Debian, name: &str) -> Self {
        let turn = take_turn();
        let tree = tree(debian);
        let folder = Path::new(KEPT).join(format!("udp-echo-{}", std::process::id()));
        remove_leftovers();
        fs::create_dir_all(folder.join(name)).unwrap();
        let mut machine = Self {
            nspawn: start(&tree, &folder),
            init: Pid::from_raw(0),
            tree,
            folder,
            _turn: turn,
        };
        machine.wait_until_it_runs();
        machine
    }

    fn wait_until_it_runs(&mut self) {
        let deadline = Instant::now() + BOOT;
        let mut state = String::new();
        while state != "running" {
            let ended = self.nspawn.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the machine does not boot ({ended:?}, {state}): {}",
                fs::read_to_string(self.folder.join("console")).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(50));
            if self.init.as_raw() == 0 {
                self.init = init_below(self.nspawn.id()).unwrap_or(self.init);
            } else {
                state = self.attempt("systemctl is-system-running").1;
                state.truncate(state.trim_end().len());
                assert_ne!(state, "degraded", "{}", self.shell("systemctl --failed"));
            }
        }
    }

    /// Boots it again.
    pub fn reboot(&mut self) {
        self.attempt("systemctl reboot");
        wait_until("the machine is down", || {
            self.nspawn.try_wait().unwrap().is_some()
        });
        self.init = Pid::from_raw(0);
        self.nspawn = start(&self.tree, &self.folder);
        self.wait_until_it_runs();
    }

    /// Runs a shell command in the machine. It must succeed. Returns its output.
    pub fn shell(&self, line: &str) -> String {
        let (status, out, err) = self.attempt(line);
        assert!(
            status.success(),
            "{line}: {status}\n{out}{err}{}",
            self.attempt("journalctl -n40 --no-pager -oshort-precise").1
        );
        out
    }

    /// Runs a shell command in the machine. Returns its status, output and errors.
    pub fn attempt(&self, line: &str) -> (ExitStatus, String, String) {
        run(self.command("sh").args(["-c", line]))
    }

    /// A command that runs in the machine as root.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init.to_string(), "--all", program])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// A command of this host, run in the network namespace of the machine.
    pub fn outer_command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--net", program]);
        command
    }

    /// A folder of this host that is removed with the machine.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path on this host of a file of the machine.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// Writes a file in the machine, and creates its folder.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Installs a package.
    pub fn install(&self, package: &Path, options: &str) -> String {
        fs::copy(package, self.path("/root/udp-echo.deb")).unwrap();
        self.shell(&format!("dpkg {options} -i /root/udp-echo.deb 2>&1"))
    }

    /// Runs `work` on a thread in the network namespace of the machine.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/proc/{}/ns/net", self.init)).unwrap();
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Asserts that `times` datagrams of a new peer are echoed.
    pub fn assert_echoes(&self, to: &str, times: u8) {
        let to: SocketAddr = to.parse().unwrap();
        let peer = self.inside(|| client(to));
        for number in 0..times {
            let sent = [b"datagram ", &[number][..]].concat();
            peer.send(&sent).unwrap();
            assert_eq!(receive(&peer), sent, "from {to}");
        }
    }

    /// All metrics of the daemon.
    pub fn metrics(&self) -> std::collections::BTreeMap<String, f64> {
        let request = "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        let response = self.inside(|| request_to(METRICS.parse().unwrap(), request));
        assert_eq!(response.status, 200, "{response:?}");
        samples(&response.body)
    }

    pub fn metric(&self, series: &str) -> f64 {
        total(&self.metrics(), series)
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        let text = self.shell(&format!("systemctl show --value -p {name} {unit}"));
        text.trim_end().to_owned()
    }

    /// Waits until a property of the service has a value.
    pub fn wait_for(&self, name: &str, value: &str) {
        wait_until(&format!("{name} of udp-echo is {value}"), || {
            self.property("udp-echo", name) == value
        });
    }

    /// The main process of the service, as its PID in the machine.
    pub fn main_pid(&self) -> Option<i32> {
        let pid = self.property("udp-echo", "MainPID").parse().unwrap();
        (pid != 0).then_some(pid)
    }

    /// The PID on this host of a process of the machine.
    pub fn outer_pid(&self, inner: i32) -> Pid {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(&self.init.to_string());
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let names = processes.filter_map(|entry| entry.file_name().into_string().ok());
        names
            .filter(|name| name.parse::<i32>().is_ok() && namespace(name) == own)
            .find(|name| inner_pid(name) == Some(inner))
            .map(|name| Pid::from_raw(name.parse().unwrap()))
            .expect("the process runs")
    }

    /// The journal's cursor at its end.
    pub fn cursor(&self) -> String {
        let text = self.shell("journalctl --sync; journalctl -n 0 --show-cursor");
        let (_, cursor) = text.split_once("-- cursor: ").expect("a cursor");
        cursor.trim_end().to_owned()
    }

    /// The journal of the service after a cursor. With further filters, journalctl 252 omits the
    /// first line.
    pub fn journal(&self, cursor: &str, options: &str) -> String {
        self.shell(&format!(
            "journalctl --sync; \
             journalctl --no-pager -u udp-echo --after-cursor '{cursor}' {options}"
        ))
    }

    /// Waits for a line in the journal of the service.
    pub fn wait_for_line(&self, cursor: &str, text: &str) {
        let mut journal = String::new();
        let deadline = Instant::now() + crate::harness::DEADLINE;
        while !journal.contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in {journal}");
            journal = self.journal(cursor, "-o cat");
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() && self.init.as_raw() != 0 {
            let line = "journalctl --no-pager -n 60 -o short-precise; systemctl --failed";
            eprintln!("the machine's journal: {}", self.attempt(line).1);
        }
        // The end of process 1 ends all others.
        if self.init.as_raw() != 0 {
            let _ = kill(self.init, Signal::SIGKILL);
        } else {
            let _ = self.nspawn.kill();
        }
        let _ = self.nspawn.wait();
        remove(&self.folder);
    }
}

/// The lock of the machines and of the kept trees.
pub fn take_turn() -> File {
    fs::create_dir_all(KEPT).unwrap();
    let turn = File::create(Path::new(KEPT).join("turn")).unwrap();
    turn.lock().unwrap();
    turn
}

/// Boots a tree in a machine's folder.
fn start(tree: &Path, folder: &Path) -> Child {
    let console = File::create(folder.join("console")).unwrap();
    // In a mount namespace of its own, so that the overlay ends with it. The kernel kills it when
    // this thread ends.
    Command::new("setpriv")
        .args(["--pdeathsig=KILL", "unshare", "--mount", "sh", "-c", START])
        .args(["sh".as_ref(), tree.as_os_str(), folder.as_os_str()])
        .arg(folder.file_name().unwrap())
        .stdin(Stdio::null())
        .stdout(console.try_clone().unwrap())
        .stderr(console)
        .spawn()
        .expect("util-linux is installed")
}

/// Boots a temporary overlay of the kept tree, or a copy. A host would permit adjtimex and bpf, too.
const START: &str = r#"
set -e
mkdir -p "$2/root" "$2/upper" "$2/work"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root" ||
    [ -e "$2/root/usr" ] || cp -a "$1/." "$2/root"
bpf=
if [ -e "$2/bpf" ]; then
    # systemd uses this mode, too.
    mount -t bpf -o mode=0700 bpf "$2/bpf"
    bpf="--bind=$2/bpf:/sys/fs/bpf --capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON"
fi
exec systemd-nspawn --directory="$2/root" --machine="$3" --boot --register=no --keep-unit \
    --private-network --console=pipe --system-call-filter="adjtimex clock_adjtime bpf" $bpf
"#;

/// Removes the folders of tests that were killed.
fn remove_leftovers() {
    for entry in fs::read_dir(KEPT).unwrap().flatten() {
        let name = entry.file_name();
        let process = name
            .to_str()
            .and_then(|name| name.strip_prefix("udp-echo-"));
        let own = std::process::id().to_string();
        if process.is_some_and(|id| id == own || !Path::new("/proc").join(id).exists()) {
            remove(&entry.path());
        }
    }
}

pub fn remove(folder: &Path) {
    shell(&format!("rm -rf --one-file-system {}", folder.display()));
}

/// The init process of the container, once it has executed systemd.
fn init_below(nspawn: u32) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
    let child = children.split_whitespace().next()?;
    let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
    let is_init = name == "systemd\n" && inner_pid(child) == Some(1);
    is_init.then(|| Pid::from_raw(child.parse().unwrap()))
}

/// The PID of a process in its own namespace.
fn inner_pid(outer: &str) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{outer}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}
