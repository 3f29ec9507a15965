"""From files to micro-batches: `rows` reads, `template` renders, `tokens` masks, `batches` orders and groups."""
