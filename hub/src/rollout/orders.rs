//! Orders: owns the signed message that tells one device what to run, never who gets which.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use fieldcast_bundle::Kind;
use fieldcast_store::desired::NewOrder;
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_wire::{Sha256, SiteId, message, pb};

use super::plan::Mode;
use crate::signing::Signer;

/// How long an order may be obeyed.
const ORDER_DAYS: i64 = 90;

/// Who writes orders, and for which site.
pub(crate) struct Writer<'s> {
    pub(crate) site: &'s SiteId,
    pub(crate) signer: &'s Arc<Signer>,
}

impl Writer<'_> {
    pub(crate) fn order<'a>(
        &self,
        device: &'a str,
        model: &'a Model<'a>,
        mode: Mode,
        generation: u64,
        now: DateTime<Utc>,
    ) -> Result<Order<'a>> {
        let expires = now + chrono::Duration::days(ORDER_DAYS);
        let order = pb::Order {
            site: self.site.as_str().to_owned(),
            device: device.to_owned(),
            forecaster: model.forecaster.to_owned(),
            bundle: model.bundle.clone(),
            bundle_size: u64::try_from(model.size)?,
            model_version: u64::try_from(model.version)?,
            stage: match mode {
                Mode::Shadow => pb::Stage::Shadow,
                Mode::Active => pb::Stage::Active,
            } as i32,
            generation,
            attempt: 1,
            expires_ms: expires.timestamp_millis(),
            issued_ms: now.timestamp_millis(),
        };
        let signed = message::encode(&self.signer.sign(Kind::Order, message::encode(&order)));
        let stage = match mode {
            Mode::Shadow => "shadow",
            Mode::Active => "active",
        };
        Ok(Order {
            device,
            model,
            stage,
            generation: i64::try_from(generation)?,
            expires,
            signed,
        })
    }
}

/// What a device is ordered to run.
pub(crate) struct Model<'a> {
    forecaster: &'a str,
    version: i64,
    bundle: Vec<u8>,
    size: i64,
}

impl<'a> Model<'a> {
    pub(crate) fn of(row: &'a ModelVersionRow) -> Result<Self> {
        let bundle = Sha256::from_hex(&row.bundle).context("the bundle's digest is malformed")?;
        Ok(Self {
            forecaster: &row.forecaster,
            version: row.version,
            bundle: bundle.to_vec(),
            size: row.bundle_size,
        })
    }

    /// No model: the device goes back to its own baseline. To order nothing would leave it running what it has.
    pub(crate) fn none(forecaster: &'a str) -> Self {
        Self {
            forecaster,
            version: 0,
            bundle: Vec::new(),
            size: 0,
        }
    }
}

pub(crate) struct Order<'a> {
    device: &'a str,
    model: &'a Model<'a>,
    stage: &'static str,
    generation: i64,
    expires: DateTime<Utc>,
    signed: Vec<u8>,
}

impl Order<'_> {
    pub(crate) fn as_new(&self) -> NewOrder<'_> {
        NewOrder {
            device: self.device,
            forecaster: self.model.forecaster,
            bundle: &self.model.bundle,
            model_version: self.model.version,
            stage: self.stage,
            generation: self.generation,
            expires_at: self.expires,
            signed: &self.signed,
        }
    }
}
