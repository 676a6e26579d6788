//! A broker within the test that is not the hub's own, and keeps nothing: owns what it offers a reader.
#![allow(clippy::unwrap_used, unreachable_pub, missing_docs, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;

use mqtt5::broker::MqttBroker;
use mqtt5::broker::auth::{AllowAllAuthProvider, AuthProvider, AuthResult};
use mqtt5::broker::config::{BrokerConfig, StorageConfig};
use mqtt5::packet::connect::ConnectPacket;

/// What it says to subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    Shared,
    /// It offers no shared ones.
    Unshared,
    Refused,
}

/// Starts one; it ends when what is returned with its address is awaited.
pub async fn start(reading: Reading) -> (SocketAddr, impl Future<Output = ()>) {
    let mut config = BrokerConfig::default()
        .with_bind_address("127.0.0.1:0".parse::<SocketAddr>().unwrap())
        .with_max_packet_size(1 << 20);
    config.storage_config = StorageConfig::default().with_persistence(false);
    config.shared_subscription_available = reading != Reading::Unshared;
    let mut broker = MqttBroker::with_config(config).await.unwrap();
    if reading == Reading::Refused {
        broker = broker.with_auth_provider(Arc::new(NobodyReads));
    }
    let (address, shutdown) = (broker.local_addr().unwrap(), broker.shutdown_handle());
    let running = tokio::spawn(async move { broker.run().await });
    let stop = async move {
        shutdown.shutdown();
        running.await.unwrap().unwrap();
    };
    (address, stop)
}

/// Lets everyone in, and none read.
struct NobodyReads;

type Answer<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl AuthProvider for NobodyReads {
    fn authenticate<'a>(
        &'a self,
        connect: &'a ConnectPacket,
        from: SocketAddr,
    ) -> Answer<'a, mqtt5::error::Result<AuthResult>> {
        AllowAllAuthProvider.authenticate(connect, from)
    }

    fn authorize_publish<'a>(
        &'a self,
        _: &str,
        _: Option<&'a str>,
        _: &'a str,
    ) -> Answer<'a, bool> {
        Box::pin(async { true })
    }

    fn authorize_subscribe<'a>(
        &'a self,
        _: &str,
        _: Option<&'a str>,
        _: &'a str,
    ) -> Answer<'a, bool> {
        Box::pin(async { false })
    }
}
