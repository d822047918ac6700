//! A veth pair that carries frames as a network does, for the kernel path.
//!
//! Loopback hands a whole GSO batch to the receiver, and the sender does the work of receiving. Here
//! each datagram is a frame with a finished checksum. Each end receives in a kernel thread on the CPU
//! of its side (Documentation/networking/napi.rst, threaded), so that the server's CPU time includes
//! the work of its driver.
//!
//! Network namespaces, mounts and programs end with this process, however it ends.

use std::fs::{self, File};
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

use crate::loads::{self, Shape};
use crate::machine;
use crate::servers::{DAEMON, Server, Start};
use crate::traffic::{Client, Sample, Span, now};

/// The address of every server on the veth pair.
pub const ADDRESS: &str = "10.99.0.1:9999";
/// [`ADDRESS`] as an option of the daemon.
pub const LISTEN: &str = "--listen=10.99.0.1:9999";

/// The payload of circling frames, as long as a record.
const REQUEST: &[u8; 22] = &[b'E'; 22];

/// The veth pair between two network namespaces.
pub struct Veth {
    home: File,
    server: End,
    client: End,
}

/// One end, in a namespace of its own.
struct End {
    namespace: File,
    device: String,
    /// The kernel thread that receives.
    receiver: PathBuf,
}

impl Veth {
    /// Creates the pair. This thread gets mounts of its own.
    ///
    /// # Errors
    /// Without root, ip, ethtool, clang and the headers of the kernel.
    pub fn new() -> io::Result<Self> {
        for (object, flags) in [
            ("bare.o", ""),
            ("pass.o", "-DPASS"),
            ("return.o", "-DRETURN"),
        ] {
            let object = object_path(object);
            shell(&format!(
                "clang -target bpf -O2 -Wall {flags} -I/usr/include/$(uname -m)-linux-gnu \
                 -c benches/echo/bare.c -o {}",
                object.display()
            ))?;
        }
        let own_namespace = || File::open("/proc/thread-self/ns/net");
        let home = own_namespace()?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        shell("mount --make-rprivate / && mount -t bpf bpf /sys/fs/bpf")?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        let server = own_namespace()?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        let client = own_namespace()?;
        let [of_server, of_client] = ["s", "c"].map(|side| format!("b{side}{}", process::id()));
        shell(&format!(
            "ip link add {of_client} type veth peer name {of_server} netns /proc/{}/fd/{}",
            process::id(),
            server.as_raw_fd()
        ))?;
        let server_cpu = machine::for_server(1)[0];
        let veth = Self {
            server: End::new(server, of_server, "10.99.0.1/24", server_cpu)?,
            client: End::new(client, of_client, "10.99.0.2/24", machine::for_threads()[0])?,
            home,
        };
        veth.client.attach("pass.o")?;
        setns(&veth.home, CloneFlags::CLONE_NEWNET)?;
        Ok(veth)
    }

    /// Starts a server on its end, with the XDP program that belongs to it.
    pub fn start(&self, start: &Start) -> io::Result<Server> {
        let End {
            namespace, device, ..
        } = &self.server;
        let receiver = self.server.receiver.clone();
        self.inside(namespace, || {
            shell(&format!("{DAEMON} detach && ip link set {device} xdp off"))?;
            match start {
                Start::Kernel => shell(&format!(
                    "{DAEMON} attach --interface {device} --listen {ADDRESS}"
                ))?,
                Start::Bare => self.server.attach("bare.o")?,
                Start::Loop(_) | Start::Daemon(..) | Start::Other(..) | Start::Suite => {
                    self.server.attach("pass.o")?;
                }
            }
            Server::start(start).map(|server| server.with_kernel_thread(receiver))
        })
    }

    /// Runs a load on its side.
    pub fn run(
        &self,
        client: &mut Client,
        server: &Server,
        shape: Shape,
        span: Span,
    ) -> io::Result<Sample> {
        self.inside(&self.client.namespace, || match shape {
            Shape::Circling { flows, window } => self.circling(server, flows, window, span),
            _ => loads::run(client, server, shape, span),
        })
    }

    /// Frames that circle: a program on the load's side sends each reply back as the next request. Sockets
    /// would not be fast enough. They send the first requests and receive the last replies.
    fn circling(
        &self,
        server: &Server,
        flows: usize,
        window: usize,
        span: Span,
    ) -> io::Result<Sample> {
        let sockets = (0..flows).map(|_| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(server.address)?;
            socket.set_read_timeout(Some(Duration::from_millis(300)))?;
            Ok(socket)
        });
        let sockets: Vec<_> = sockets.collect::<io::Result<_>>()?;
        // The address of the server's hardware is known then.
        sockets[0].send(REQUEST)?;
        sockets[0].recv(&mut [0; 64])?;
        self.client.attach("return.o")?;
        for socket in &sockets {
            for _ in 0..window {
                socket.send(REQUEST)?;
            }
        }
        // This thread must get the CPU while the frames circle.
        let thread = nix::unistd::gettid();
        shell(&format!("chrt --fifo --pid 2 {thread}"))?;
        thread::sleep(span.warm_up);
        let before = (self.client.received()?, server.cpu()?, now());
        let load_before = machine::task_cpu(&self.client.receiver)?;
        thread::sleep(span.window);
        let after = (self.client.received()?, server.cpu()?, now());
        let load_after = machine::task_cpu(&self.client.receiver)?;
        self.client.attach("pass.o")?;
        shell(&format!("chrt --other --pid 0 {thread}"))?;
        let mut last = 0;
        for socket in &sockets {
            for _ in 0..window {
                last += usize::from(socket.recv(&mut [0; 64]).is_ok());
            }
        }
        Ok(Sample {
            echoes: after.0 - before.0,
            lost: (flows * window - last) as u64,
            late: 0,
            time: after.2 - before.2,
            cpu: after.1.saturating_sub(before.1),
            load_cpu: load_after.saturating_sub(load_before),
            rtt: [None; 2],
        })
    }

    fn inside<T>(&self, namespace: &File, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let result = run();
        setns(&self.home, CloneFlags::CLONE_NEWNET)?;
        result
    }
}

impl End {
    fn new(namespace: File, device: String, address: &str, cpu: usize) -> io::Result<Self> {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        // Without checksums and segmentation by hardware, frames are complete and separate. GRO makes
        // veth receive as a network adapter does. Only a sysfs that is mounted here has the device.
        shell(&format!(
            "ip link set lo up && ip address add {address} dev {device} &&
             ethtool -K {device} gro on tx off gso off tx-udp-segmentation off &&
             ip link set {device} up &&
             unshare --mount sh -c \
             'mount -t sysfs sysfs /sys && echo 1 >/sys/class/net/{device}/threaded'"
        ))?;
        let receiver = kernel_thread(&format!("napi/{device}-"))?;
        let pid = receiver.file_name().unwrap_or_default().display();
        // Softirqs, which do this work by default, come before every thread, too.
        shell(&format!(
            "taskset -cp {cpu} {pid} && chrt --fifo --pid 1 {pid}"
        ))?;
        Ok(Self {
            namespace,
            device,
            receiver,
        })
    }

    /// The frames that it has received. Its namespace must be that of this thread.
    fn received(&self) -> io::Result<u64> {
        let devices = fs::read_to_string("/proc/thread-self/net/dev")?;
        let line = devices.lines().find_map(|line| {
            let line = line.trim_start().strip_prefix(&self.device)?;
            line.strip_prefix(':')?.split_whitespace().nth(1)
        });
        line.and_then(|packets| packets.parse().ok())
            .ok_or_else(|| io::Error::other(format!("no {} in {devices}", self.device)))
    }

    fn attach(&self, object: &str) -> io::Result<()> {
        shell(&format!(
            "ip -force link set {} xdpdrv object {} section xdp",
            self.device,
            object_path(object).display()
        ))
    }
}

fn object_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Waits for the kernel thread whose name starts with `name`. Returns its directory in /proc.
fn kernel_thread(name: &str) -> io::Result<PathBuf> {
    let deadline: Instant = now() + Duration::from_secs(10);
    loop {
        for process in fs::read_dir("/proc")? {
            let path = process?.path();
            let comm = fs::read_to_string(path.join("comm"));
            if comm.is_ok_and(|comm| comm.starts_with(name)) {
                return Ok(path);
            }
        }
        if now() > deadline {
            return Err(io::Error::other(format!("no kernel thread {name}")));
        }
    }
}

fn shell(line: &str) -> io::Result<()> {
    let output = Command::new("sh").args(["-ec", line]).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{line}: {said}")))
}
