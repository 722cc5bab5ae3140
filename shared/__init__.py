"""What two or more services hold in common: the contracts, the money, the wire. Imports nothing from `services`."""
