"""What a node does for training: follows ranks, notices stalls, stops a gang at one step."""
