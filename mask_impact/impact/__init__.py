"""Where a layer reads: record, mask, replay, measure."""
