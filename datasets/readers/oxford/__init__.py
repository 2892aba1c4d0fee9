"""Oxford RobotCar and Boreas, in PointNetVLAD's benchmark layout."""
