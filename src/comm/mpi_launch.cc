#include "comm/mpi_launch.h"

#include <cstdlib>

#ifdef PLIMSOLL_MPI
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>
#endif

namespace plimsoll {

int launched_processes() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS"}) {
    const char* text = std::getenv(name);
    // Slurm sets its variable for plain commands too; PMIx is there where ranks are meant.
    if (text != nullptr && std::getenv("PMIX_RANK") != nullptr) return std::atoi(text);
  }
  return 1;
}

#ifdef PLIMSOLL_MPI
namespace {

Result<std::vector<std::string>> gather_by_mpi(const std::string& mine) {
  int num_processes = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &num_processes);
  const int size = static_cast<int>(mine.size());
  std::vector<int> sizes(num_processes), offsets(num_processes);
  MPI_Allgather(&size, 1, MPI_INT, sizes.data(), 1, MPI_INT, MPI_COMM_WORLD);
  int total = 0;
  for (int p = 0; p < num_processes; ++p) {
    offsets[p] = total;
    total += sizes[p];
  }
  std::string all(total, '\0');
  MPI_Allgatherv(mine.data(), size, MPI_CHAR, all.data(), sizes.data(), offsets.data(), MPI_CHAR,
                 MPI_COMM_WORLD);
  std::vector<std::string> texts;
  for (int p = 0; p < num_processes; ++p) texts.push_back(all.substr(offsets[p], sizes[p]));
  return texts;
}

}  // namespace

Result<std::unique_ptr<ProcessMesh>> join_launched(double timeout_seconds) {
  if (launched_processes() <= 1) return std::unique_ptr<ProcessMesh>();
  if (MPI_Init(nullptr, nullptr) != MPI_SUCCESS) return unavailable("MPI_Init has failed");
  MeshOptions options{.timeout_seconds = timeout_seconds};
  MPI_Comm_rank(MPI_COMM_WORLD, &options.process);
  MPI_Comm_size(MPI_COMM_WORLD, &options.num_processes);
  auto mesh = ProcessMesh::connect(options, gather_by_mpi);
  MPI_Finalize();  // nobody needs it any more, so nobody can hang in it
  return mesh;
}
#else
Result<std::unique_ptr<ProcessMesh>> join_launched(double) {
  if (launched_processes() <= 1) return std::unique_ptr<ProcessMesh>();
  return unsupported(
      "this plimsoll was built without MPI, so it cannot be one of several processes; install "
      "libopenmpi-dev and build again, or start it without mpirun");
}
#endif

}  // namespace plimsoll
