-- What the ledger still knows of batches whose rows retention took, and by whom a device was heard last. Forward only.

-- The first 16 bytes of the SHA-256 of 64 batches: number 64 * block first; zeros where there was none.
CREATE TABLE batch_proofs (
    device text NOT NULL,
    epoch  uuid NOT NULL,
    block  bigint NOT NULL,
    proofs bytea NOT NULL,
    PRIMARY KEY (device, epoch, block),
    FOREIGN KEY (device, epoch) REFERENCES epochs(device, epoch)
);

-- The newest session that synchronised, its first sync, and since when its boot is known: a late sync is no second device.
ALTER TABLE devices ADD COLUMN synced_session bigint NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN synced_boot text NOT NULL DEFAULT '';
ALTER TABLE devices ADD COLUMN synced_ms bigint NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN boot_heard_at timestamptz NOT NULL DEFAULT now();
