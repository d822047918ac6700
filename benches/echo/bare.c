/* The least that an XDP program can do to echo datagrams to port 9999: no checksum is verified, nothing
 * is counted. On the load's side of the veth pair it sends each reply back as the next request
 * (`-DRETURN`), or passes everything (`-DPASS`): without a program, veth would drop the replies. */

#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))

#ifdef RETURN
#define SERVER 0
#else
#define SERVER 1
#endif

struct frame {
	__u16 ethernet[6];
	__u16 type;
	__u8 before_protocol[9];
	__u8 protocol;
	__u16 checksum;
	__u16 addresses[4];
	__u16 ports[2];
} __attribute__((packed, aligned(2)));

static inline __attribute__((always_inline)) void swap(__u16 *one, __u16 *other)
{
	__u16 kept = *one;

	*one = *other;
	*other = kept;
}

SEC("xdp") int bare(struct xdp_md *context)
{
	struct frame *frame = (void *)(long)context->data;

#ifdef PASS
	return XDP_PASS;
#endif
	if ((void *)(frame + 1) > (void *)(long)context->data_end ||
	    frame->type != __builtin_bswap16(0x0800) || frame->protocol != 17 ||
	    frame->ports[SERVER] != __builtin_bswap16(9999))
		return XDP_PASS;
	for (int i = 0; i < 3; i++)
		swap(&frame->ethernet[i], &frame->ethernet[i + 3]);
	for (int i = 0; i < 2; i++)
		swap(&frame->addresses[i], &frame->addresses[i + 2]);
	swap(&frame->ports[0], &frame->ports[1]);
	return XDP_TX;
}

char terms[] SEC("license") = "Dual MIT/GPL";
