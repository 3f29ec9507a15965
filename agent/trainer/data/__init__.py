"""From files to micro-batches: `rows` reads, `template` renders, `tokens` masks, `order` groups, `batches` pads."""
