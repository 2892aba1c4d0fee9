"""``cambridge``: one scene of Cambridge Landmarks (Kendall et al., ICCV 2015) with PoseNet's lists.

Positions are camera centres in metres; quaternions turn from the world into the camera.
"""

from distilplace.datasets.readers.poses.data import Part, PoseData, Scene
from distilplace.datasets.readers.poses.lists import PoseList, read_scene_list

SCENES = {
    "KingsCollege": Scene(
        1220,
        343,
        {"seq7/frame00001.png": (-39.114574, -16.434146, 1.580481, 0.604090, 0.547015, -0.394160, 0.424839)},
    ),
    "OldHospital": Scene(895, 182),
    "ShopFacade": Scene(
        231,
        103,
        {"seq1/frame00001.png": (-0.157816, -10.41315, 1.832074, 0.712261, 0.682691, -0.123193, 0.106962)},
    ),
    "StMarysChurch": Scene(1487, 530),
    "GreatCourt": Scene(1532, 760),
    "Street": Scene(3015, 2923),
}


class CambridgeData(PoseData):
    """``dataset_folder``: KingsCollege, ShopFacade ... with dataset_train.txt, dataset_test.txt and seq*/frame*.png.

    Instead of a list there may be a table *_train.csv, *_test.csv (transposenet's columns). The mean image as in
    :class:`distilplace.datasets.readers.poses.data.PoseData`.
    """

    name = "cambridge"
    world_to_camera = True
    scenes = SCENES

    def read_list(self, part: Part) -> PoseList:
        """The part's list; :class:`UserError` with file and line."""
        return read_scene_list(self.folder, part)
