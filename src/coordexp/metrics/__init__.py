"""Every metric key with its meaning and reduction, folding over packs, optimizer steps and ranks."""
