# The library that others link: balance, record, their face for C and the public headers, static or, with
# BUILD_SHARED_LIBS, shared. `cmake --install DIR --component library` installs it alone, with what
# find_package(Plimsoll) and pkg-config need.

include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

find_package(PkgConfig REQUIRED)
pkg_check_modules(libzip REQUIRED IMPORTED_TARGET libzip)

add_library(plimsoll_library $<TARGET_OBJECTS:plimsoll_balance> $<TARGET_OBJECTS:plimsoll_record>
                             $<TARGET_OBJECTS:plimsoll_c_api>)
add_library(Plimsoll::plimsoll ALIAS plimsoll_library)
file(GLOB public_headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/plimsoll/*.h)
target_sources(plimsoll_library PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}/include
                                       FILES ${public_headers})
target_compile_features(plimsoll_library PUBLIC cxx_std_20)
target_link_libraries(plimsoll_library PRIVATE PkgConfig::libzip Threads::Threads)
set_target_properties(plimsoll_library PROPERTIES
  OUTPUT_NAME plimsoll EXPORT_NAME plimsoll LINKER_LANGUAGE CXX
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
if(BUILD_SHARED_LIBS)  # nothing but our own names, least of all the JSON library's
  set(symbols ${CMAKE_CURRENT_LIST_DIR}/plimsoll.map)
  target_link_options(plimsoll_library PRIVATE -Wl,--version-script=${symbols} -Wl,--no-undefined)
  set_property(TARGET plimsoll_library APPEND PROPERTY LINK_DEPENDS ${symbols})
endif()
if(PLIMSOLL_SANITIZE)
  target_link_options(plimsoll_library PRIVATE -fsanitize=${PLIMSOLL_SANITIZE})
endif()

install(TARGETS plimsoll_library EXPORT PlimsollTargets COMPONENT library
        FILE_SET HEADERS COMPONENT library)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/Plimsoll)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/PlimsollConfig.cmake.in
                              PlimsollConfig.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(PlimsollConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/PlimsollConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/PlimsollConfigVersion.cmake
        DESTINATION ${package_dir} COMPONENT library)
install(EXPORT PlimsollTargets NAMESPACE Plimsoll:: DESTINATION ${package_dir} COMPONENT library)

# A static library brings what it needs itself.
set(PLIMSOLL_PC_REQUIRES libzip)
set(PLIMSOLL_PC_LIBS "-lstdc++ -lm -pthread")
if(BUILD_SHARED_LIBS)
  set(PLIMSOLL_PC_REQUIRES "")
  set(PLIMSOLL_PC_LIBS "")
endif()
file(RELATIVE_PATH PLIMSOLL_PC_TO_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(${CMAKE_CURRENT_LIST_DIR}/plimsoll.pc.in plimsoll.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/plimsoll.pc
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT library)
