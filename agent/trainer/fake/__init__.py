"""A trainer that trains nothing: the contract of docs/trainer-contract.md with knobs for every way of going wrong."""
