package vhostuser

// featureProtocol is VHOST_USER_F_PROTOCOL_FEATURES among the virtio features: there are protocol features. No driver sees
// it.
const featureProtocol uint64 = 1 << 30

// featureLogAll is VHOST_F_LOG_ALL among the virtio features: the back end notes which pages it writes. No driver sees it.
const featureLogAll uint64 = 1 << 26

// Protocol features (vhost-user specification, "Protocol features").
const (
	protocolMQ       uint64 = 1 << 0  // VHOST_USER_PROTOCOL_F_MQ
	protocolLogShmfd uint64 = 1 << 1  // VHOST_USER_PROTOCOL_F_LOG_SHMFD
	protocolReplyAck uint64 = 1 << 3  // VHOST_USER_PROTOCOL_F_REPLY_ACK
	protocolMTU      uint64 = 1 << 4  // VHOST_USER_PROTOCOL_F_MTU
	protocolConfig   uint64 = 1 << 9  // VHOST_USER_PROTOCOL_F_CONFIG
	protocolInflight uint64 = 1 << 12 // VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD
)
