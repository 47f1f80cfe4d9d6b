"""What drifted: tonight's data and reward model beside the champion's and those of the last nights."""
