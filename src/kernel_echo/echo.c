/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
 *
 * Echoes datagrams in the network driver (XDP). It answers only what the daemon would answer in
 * `--mode echo` with a whole, unchanged datagram, and passes every other frame to the socket.
 *
 * `attach` loads the compiled instructions in `program.rs`. A test compiles this file and compares.
 */

#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define SWAP16(number) __builtin_bswap16(number)

static void *(*const map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static __u64 (*const coarse_time)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;
static __u64 (*const ticks)(void) = (void *)BPF_FUNC_jiffies64;

/* The most addresses of one interface. */
#define ADDRESSES 8
/* The longest UDP datagram that is answered, with its header: the verifier must see the end of loops. */
#define LONGEST 4096
/* Without a heartbeat of the daemon for this long, in nanoseconds, every frame is passed. */
#define SILENCE 1500000000ULL
/* How far the coarse clock may be behind that of the daemon, in nanoseconds: one tick at 100 Hz, twice. */
#define TICKS 20000000ULL
/* The TTL of a reply: the default of the kernel's sockets. */
#define TTL 64

/* An address that the daemon listens on, and its counts on one CPU. The loader has the same layout. */
struct address {
	__u32 ip[4];           /* IPv4 as ::ffff:a.b.c.d; in network byte order, like port */
	__u16 port;            /* 0: unused, as are all entries after it */
	__u16 min_source_port; /* in the byte order of the host */
	__u32 max_datagram;
	__u16 mac[3];          /* of the interface */
	__u16 unused;
	__u32 zero[2];
	__u64 datagrams;       /* echoed */
	__u64 bytes;           /* of the echoed datagrams */
	__u64 passed;          /* datagrams for this address that the socket got */
	__u64 last;            /* when the last one was echoed, in nanoseconds of CLOCK_MONOTONIC */
	__u64 tick;            /* when the heartbeat was fresh, in ticks of the kernel */
};

/* For the symbols only: the loader creates the maps. */
struct map { int unused; };
struct map addresses SEC("maps"); /* per-CPU array of struct address */
struct map heartbeat SEC("maps"); /* array of one __u64: CLOCK_MONOTONIC in nanoseconds */

struct ethernet {
	__u16 to[3];
	__u16 from[3];
	__u16 type;
};

struct ipv4 {
	__u8 version_and_length;
	__u8 traffic_class;
	__u16 length;
	__u16 id;
	__u16 fragment;
	__u8 ttl;
	__u8 protocol;
	__u16 checksum;
	__u32 from;
	__u32 to;
};

struct ipv6 {
	__u32 version_and_flow;
	__u16 length;
	__u8 protocol;
	__u8 ttl;
	__u32 from[4];
	__u32 to[4];
};

struct udp {
	__u16 from;
	__u16 to;
	__u16 length;
	__u16 checksum;
};

/* Folds a sum of 16-bit words (RFC 1071). */
INLINE __u16 folded(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The sum of the words of a header, which is complete. */
INLINE __u64 header_sum(const struct ipv4 *header)
{
	const __u32 *word = (const __u32 *)header;

	return (__u64)word[0] + word[1] + word[2] + word[3] + word[4];
}

/* The sum of the first `length` bytes at `at`. A sum that the end of the frame cuts short is wrong.
 * `zero` is 0, which the verifier does not know: otherwise it would learn the length of the frame
 * from each pass of the loop, and check the rest of the program once for each. */
INLINE __u64 sum_of(const void *at, const void *end, __u32 length, __u32 zero)
{
	const __u8 *byte = at + (zero & 1);
	__u64 sum = 0;

	for (__u32 blocks = 0; blocks < LONGEST / 16; blocks++) {
		const __u32 *word = (const __u32 *)byte;

		if (blocks >= length / 16 || (const void *)(byte + 16) > end)
			break;
		sum += (__u64)word[0] + word[1];
		sum += (__u64)word[2] + word[3];
		byte += 16;
	}
	byte = at + (length & ~15U);
	if (length & 8 && (const void *)(byte + 8) <= end) {
		sum += (__u64)((const __u32 *)byte)[0] + ((const __u32 *)byte)[1];
		byte += 8;
	}
	if (length & 4 && (const void *)(byte + 4) <= end) {
		sum += *(const __u32 *)byte;
		byte += 4;
	}
	if (length & 2 && (const void *)(byte + 2) <= end) {
		sum += *(const __u16 *)byte;
		byte += 2;
	}
	/* The odd byte is the first of a word: 0 follows it. */
	if (length & 1 && (const void *)(byte + 1) <= end)
		sum += SWAP16((__u16)(*byte << 8));
	return sum;
}

INLINE void swap_macs(struct ethernet *ethernet)
{
	for (int i = 0; i < 3; i++) {
		__u16 part = ethernet->to[i];

		ethernet->to[i] = ethernet->from[i];
		ethernet->from[i] = part;
	}
}

/* Sources that the stack drops, that are no other host, or that the daemon refuses. */
INLINE int is_odd_ipv4_source(__u32 from, __u32 to)
{
	__u8 first = from; /* The first byte in the frame. */

	return from == to || first == 0 || first == 127 || first >= 224;
}

INLINE int is_odd_ipv6_source(const __u32 *from, const __u32 *to)
{
	int is_own = from[0] == to[0] && from[1] == to[1] && from[2] == to[2] && from[3] == to[3];
	__u8 first = *(const __u8 *)from;

	/* Unspecified, loopback, mapped and compatible addresses begin with 64 zero bits. */
	return is_own || first == 0xff || (from[0] | from[1]) == 0;
}

/* Whether a datagram with a valid header is one that the daemon would echo whole. */
INLINE int is_plain(const struct address *to, const struct ethernet *ethernet, __u16 from_port,
		    __u32 length)
{
	__u32 payload = length - sizeof(struct udp); /* More than any limit if the length is too small. */
	int is_to_own = 1, is_from_own = 1;

	for (int i = 0; i < 3; i++) {
		is_to_own &= ethernet->to[i] == to->mac[i];
		is_from_own &= ethernet->from[i] == to->mac[i];
	}
	/* The lowest bit of the first byte is that of multicast addresses. */
	if (!is_to_own || is_from_own || ethernet->from[0] & 1)
		return 0;
	return from_port != 0 && from_port >= to->min_source_port && payload <= to->max_datagram;
}

SEC("xdp") int kernel_echo(struct xdp_md *context)
{
	void *start = (void *)(long)context->data;
	void *end = (void *)(long)context->data_end;
	struct ethernet *ethernet = start;
	struct address *own = 0;
	struct ipv4 *ipv4 = start + sizeof(*ethernet);
	struct ipv6 *ipv6 = start + sizeof(*ethernet);
	struct udp *udp;
	__u32 ip[4] = {0, 0, 0, 0};
	__u32 length, key;
	__u64 sum, tick, now = 0, *beat;
	int is_ipv4, is_reflector = 0;

	if (start + sizeof(*ethernet) > end)
		return XDP_PASS;
	is_ipv4 = ethernet->type == SWAP16(0x0800);
	if (is_ipv4) {
		udp = (void *)(ipv4 + 1);
		if ((void *)(udp + 1) > end)
			return XDP_PASS;
		/* No options, no fragment (the first bit of the flags is reserved). */
		if (ipv4->version_and_length != 0x45 || ipv4->protocol != 17 ||
		    ipv4->fragment & SWAP16(0xbfff))
			return XDP_PASS;
		ip[2] = 0xffff0000;
		ip[3] = ipv4->to;
	} else if (ethernet->type == SWAP16(0x86dd)) {
		udp = (void *)(ipv6 + 1);
		if ((void *)(udp + 1) > end)
			return XDP_PASS;
		/* An address that begins with 64 zero bits may be that of an IPv4 entry. */
		if ((*(__u8 *)ipv6 & 0xf0) != 0x60 || ipv6->protocol != 17 ||
		    (ipv6->to[0] | ipv6->to[1]) == 0)
			return XDP_PASS;
		for (int i = 0; i < 4; i++)
			ip[i] = ipv6->to[i];
	} else {
		return XDP_PASS;
	}

	for (int number = 0; number < ADDRESSES; number++) {
		struct address *address;

		key = number;
		address = map_lookup(&addresses, &key);

		if (!address || !address->port)
			break;
		is_reflector |= address->port == udp->from;
		if (address->port == udp->to && address->ip[0] == ip[0] && address->ip[1] == ip[1] &&
		    address->ip[2] == ip[2] && address->ip[3] == ip[3])
			own = address;
	}
	if (!own)
		return XDP_PASS;

	length = SWAP16(udp->length);
	if (is_ipv4) {
		if (SWAP16(ipv4->length) != length + sizeof(*ipv4) ||
		    folded(header_sum(ipv4)) != 0xffff || is_odd_ipv4_source(ipv4->from, ipv4->to))
			goto pass;
		sum = (__u64)ipv4->from + ipv4->to;
	} else {
		if (SWAP16(ipv6->length) != length || is_odd_ipv6_source(ipv6->from, ipv6->to))
			goto pass;
		sum = 0;
		for (int i = 0; i < 4; i++)
			sum += (__u64)ipv6->from[i] + ipv6->to[i];
	}
	if (is_reflector || !is_plain(own, ethernet, SWAP16(udp->from), length))
		goto pass;
	/* Short frames are padded to 60 bytes. */
	if (length > LONGEST || (void *)udp + length > end ||
	    ((void *)udp + length < end && end - start > 60))
		goto pass;
	/* The coarse clock moves once per tick, and reading it takes longer than all else. */
	tick = ticks();
	if (tick != own->tick) {
		key = 0;
		beat = map_lookup(&heartbeat, &key);
		now = coarse_time();
		/* Also not for one of the future. */
		if (!beat || !*beat || now + TICKS - *beat > SILENCE + TICKS)
			goto pass;
	}
	/* A sender without a checksum, or one that leaves it to hardware, sends another one. */
	if (!udp->checksum)
		goto pass;
	sum += SWAP16(17) + (__u64)udp->length;
	if (folded(sum + sum_of(udp, end, length, own->zero[0])) != 0xffff)
		goto pass;

	swap_macs(ethernet);
	if (is_ipv4) {
		__u32 from = ipv4->from;

		ipv4->from = ipv4->to;
		ipv4->to = from;
		ipv4->traffic_class = 0;
		ipv4->fragment = SWAP16(0x4000); /* don't fragment */
		ipv4->ttl = TTL;
		ipv4->checksum = 0;
		ipv4->checksum = ~folded(header_sum(ipv4));
	} else {
		for (int i = 0; i < 4; i++) {
			__u32 from = ipv6->from[i];

			ipv6->from[i] = ipv6->to[i];
			ipv6->to[i] = from;
		}
		/* Traffic class and flow label 0. */
		ipv6->version_and_flow = 0;
		*(__u8 *)ipv6 = 0x60;
		ipv6->ttl = TTL;
	}
	/* The order of addresses and ports makes no difference to the checksum. */
	{
		__u16 from = udp->from;

		udp->from = udp->to;
		udp->to = from;
	}
	own->datagrams++;
	own->bytes += length - sizeof(*udp);
	if (now) {
		own->last = now;
		own->tick = tick;
	}
	return XDP_TX;
pass:
	own->passed++;
	return XDP_PASS;
}

char terms[] SEC("license") = "Dual MIT/GPL";
