"""CMU-MOSEI and CMU-MOSI: sentiment of utterances."""
