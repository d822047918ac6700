"""Prints the fields of STAMP replies as scapy decodes them: JSON, one line per packet.

Arguments: "open" or "authenticated", the key and the packets in hexadecimal digits.
"""

import hmac, json, sys
from scapy.contrib.stamp import (
    ErrorEstimate, STAMPSessionReflectorTestUnauthenticated, STAMPTestTLV)
from scapy.fields import (
    ByteField, IntField, NBytesField, PacketField, PacketListField, ShortField, StrFixedLenField)
from scapy.layers.ntp import TimeStampField
from scapy.packet import Packet

class Authenticated(Packet):
    '''RFC 8762, section 4.3.2, and RFC 8972, section 3.'''
    fields_desc = [
        IntField('seq', 0), NBytesField('mbz', 0, 12), TimeStampField('ts', 0),
        PacketField('err_estimate', ErrorEstimate(), ErrorEstimate), ShortField('ssid', 0),
        NBytesField('mbz1', 0, 4), TimeStampField('ts_rx', 0), NBytesField('mbz2', 0, 8),
        IntField('seq_sender', 0), NBytesField('mbz3', 0, 12), TimeStampField('ts_sender', 0),
        PacketField('err_estimate_sender', ErrorEstimate(), ErrorEstimate),
        NBytesField('mbz4', 0, 6), ByteField('ttl_sender', 0), NBytesField('mbz5', 0, 15),
        StrFixedLenField('hmac', b'', 16), PacketListField('tlv_objects', [], STAMPTestTLV)]

def estimate(e):
    return [e.S, e.Z, e.scale, e.multiplier]

def is_authentic(p, data, key):
    def sign(data):
        return hmac.new(key, data, 'sha256').digest()[:16]
    before, valid = b'', p.hmac == sign(data[:96])
    for t in p.tlv_objects:
        valid = valid and (t.type != 8 or t.value == sign(data[:4] + before))
        before += bytes(t)
    return valid

kind, key = sys.argv[1], bytes.fromhex(sys.argv[2])
layer = STAMPSessionReflectorTestUnauthenticated if kind == 'open' else Authenticated
for data in map(bytes.fromhex, sys.argv[3:]):
    p = layer(data)
    found = {
        'seq': p.seq, 'ssid': p.ssid, 'seq_sender': p.seq_sender, 'ttl_sender': p.ttl_sender,
        'err': estimate(p.err_estimate), 'err_sender': estimate(p.err_estimate_sender),
        'mbz': [p.getfieldval(f.name) for f in p.fields_desc if f.name.startswith('mbz')],
        'tlvs': [[int(t.flags), t.type, t.len, bytes(t.value).hex()] for t in p.tlv_objects],
    }
    for name in ['ts', 'ts_rx', 'ts_sender']:
        found[name] = p.getfieldval(name)
    if kind != 'open':
        found['is_authentic'] = is_authentic(p, data, key)
    print(json.dumps(found))
